"""The command line: the only place that parses arguments, prints and exits.

``app.py`` holds the program, one file a group of commands, ``output.py`` all that is printed. Command modules import
nothing heavy at their top: ``edgeship --help`` must answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from typing import Any

import typer

from edgeship.cli import (
    bench,
    build,
    bundle,
    check,
    decide,
    evaluate,
    fleet,
    hand_over,
    history,
    init,
    inspect,
    layers,
    prepare,
    qat,
    quantize,
    report,
    run,
    selftest,
    ship,
)
from edgeship.cli.app import COMMANDS, USAGE_ERROR, app
from edgeship.cli.guard import guarded
from edgeship.cli.output import show, write_json
from edgeship.cli.streams import close_streams, prepare_streams
from edgeship.errors import EdgeshipError
from edgeship.qat.launched import is_follower

__all__ = [
    "COMMANDS", "USAGE_ERROR", "app", "bench", "build", "bundle", "check", "decide", "evaluate", "fleet", "hand_over",
    "history", "init", "inspect", "layers", "main", "prepare", "qat", "quantize", "report", "run", "selftest", "ship",
]  # fmt: skip
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT. Typer turns KeyboardInterrupt into an Exit with it."""
SAME_STOP_S = 1.0
"""Seconds within which a second SIGTERM is the first one, passed on."""


def main() -> None:
    """The ``edgeship`` command. Exit codes: 0 ship or success, 1 no-ship, 2 wrong input, 3 inconclusive, 4 failed."""
    prepare_streams()
    sys.exit(guarded(_command, _crashed))


def _command() -> int:
    """One command, its streams closed; where they cannot take what was said, the exit code stands."""
    if sys.argv[1:2] != ["trial"]:  # who waits for a trial tells by the signal that it was ended from outside
        signal.signal(signal.SIGTERM, _terminated)
    code = _run()
    close_streams(as_json="--json" in sys.argv)
    return code


def _crashed(error: EdgeshipError, trace: str) -> None:
    if os.environ.get("EDGESHIP_DEBUG"):
        _say(trace)
    _report(error)


def _terminated(_number: int, _frame: object) -> None:
    """Stop as after Ctrl-C, so that nothing temporary is left; a later signal ends the process at once.

    One that is sent to a whole group of processes comes twice: by itself, and passed on by the guard.
    """
    first = time.monotonic()

    def again(_number: int, _frame: object) -> None:
        if time.monotonic() - first > SAME_STOP_S:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, again)
    raise KeyboardInterrupt


def _run() -> int:
    try:
        code: Any = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except USAGE_ERROR as error:
        return _misused(error)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except EdgeshipError as error:
        _report(error)
        return error.exit_code
    except Exception as error:
        if os.environ.get("EDGESHIP_DEBUG"):
            raise
        _say(f"error: edgeship itself failed: {type(error).__name__}: {error}")
        _say("do: run again with EDGESHIP_DEBUG=1 and report the traceback")
        return 4
    if code == INTERRUPTED and not is_follower():
        _say("interrupted; what was finished is kept, the same command continues from there")
    return code if isinstance(code, int) else 0


def _misused(error: Any) -> int:
    """Say what is wrong with the arguments; without any, show the help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    if context is not None:
        _say(context.get_usage())
        _say(f"Try 'edgeship {context.info_name} --help'." if context.parent else "Try 'edgeship --help'.")
    message = error.format_message()
    if message:
        _say(f"error: {message}")
    return 2


def _report(error: EdgeshipError) -> None:
    if "--json" in sys.argv:
        told = {"kind": type(error).__name__, "found": error.found, "expected": error.expected, "do": error.do}
        write_json({"error": told}, indent=None)
    if os.environ.get("EDGESHIP_DEBUG"):
        _say(traceback.format_exc())
    _say(f"error: {error}")
    if error.stage not in (None, "check"):  # the check stands before every stage
        before = ", ".join(error.finished) or "nothing yet"
        _say(f"in stage: {error.stage}; finished before it and kept: {before}")


def _say(text: str) -> None:
    show(text, error=True)
