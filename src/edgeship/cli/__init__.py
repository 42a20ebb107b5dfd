"""The command line: the only place that parses arguments, prints and exits.

Command modules import nothing heavy at their top: ``edgeship --help`` must answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from edgeship.errors import EdgeshipError

app = typer.Typer(
    name="edgeship",
    help="From a PyTorch vision model to an engine that may ship: one command, one verdict, with the evidence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Click's base error: typer bundles click in some versions and depends on it in others."""


COMMANDS = (
    "init", "doctor", "ship",
    "export", "slim", "preflight", "parity", "calibrate", "quantize", "build", "bench", "evaluate", "gate", "compare",
    "report", "inspect", "bundle", "verify", "run", "rebuild",
)  # fmt: skip
"""Every command, in the order of the path; ``--help`` shows them so."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT. Typer turns KeyboardInterrupt into an Exit with it."""


def _register() -> None:
    """Import the command modules: each adds its commands to ``app``."""
    from edgeship.cli import bench, bundle, decide, engine, evaluate, prepare, quantize, report, ship  # noqa: F401

    order = {name: place for place, name in enumerate(COMMANDS)}
    app.registered_commands.sort(
        key=lambda item: order.get(str(item.name or getattr(item.callback, "__name__", "")), len(order))
    )


def main() -> None:
    """The ``edgeship`` command. Exit codes: 0 ship or success, 1 no-ship, 2 wrong input, 3 inconclusive, 4 failed."""
    _register()
    sys.exit(_run())


def _run() -> int:
    try:
        code: Any = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except USAGE_ERROR as error:
        error.show()
        return 2
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except EdgeshipError as error:
        _report(error)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if os.environ.get("EDGESHIP_DEBUG"):
            raise
        _say(f"error: edgeship itself failed: {type(error).__name__}: {error}")
        _say("do: run again with EDGESHIP_DEBUG=1 and report the traceback")
        return 4
    if code == INTERRUPTED:
        _say("interrupted; what was finished is kept, the same command continues from there")
    return code if isinstance(code, int) else 0


def _report(error: EdgeshipError) -> None:
    if "--json" in sys.argv:
        import json

        print(
            json.dumps(
                {
                    "error": {
                        "kind": type(error).__name__,
                        "found": error.found,
                        "expected": error.expected,
                        "do": error.do,
                    }
                }
            )
        )
    if os.environ.get("EDGESHIP_DEBUG"):
        import traceback

        traceback.print_exc()
    _say(f"error: {error}")
    if error.stage is not None:
        before = ", ".join(error.finished) or "nothing yet"
        _say(f"in stage: {error.stage}; finished before it and kept: {before}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
