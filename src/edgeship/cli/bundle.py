"""The vehicle's commands: bundle, verify, run, rebuild; and ``trial``, which targets use."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import typer

from edgeship.cli import app
from edgeship.cli.output import JSON_OPTION, progress_bar


@app.command(hidden=True)
def trial(
    folder: Path = typer.Argument(..., help="A folder with spec.json."),
    as_json: bool = JSON_OPTION,
    end_with_stdin: bool = typer.Option(False, "--end-with-stdin", help="Stop when standard input closes."),
) -> None:
    """Run the trial in FOLDER in this process. With --json, progress comes as one JSON object a line."""
    from edgeship.errors import EdgeshipError
    from edgeship.targets import wire
    from edgeship.trial.run import run_trial

    if not as_json:
        with progress_bar() as progress:
            run_trial(folder, progress)
        return
    if end_with_stdin:
        _end_with_parent()
    out = _private_stdout()
    try:
        run_trial(folder, wire.speaker(out))
    except EdgeshipError as error:
        wire.say(out, wire.describe(error))
        raise typer.Exit(error.exit_code) from None
    wire.say(out, {"finished": True})


def _private_stdout() -> Any:
    """Keep standard output for our lines; what libraries print goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


def _end_with_parent() -> None:
    """Die when the waiting process does: it holds the other end of our standard input and never writes to it."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()
