"""``ship``: the whole path, one verdict."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from edgeship.cli.app import app
from edgeship.cli.live import display, duration
from edgeship.cli.output import JSON_OPTION, show, write_json
from edgeship.cli.settings import VERDICT_CODES


@app.command()
def ship(
    config: Path = typer.Argument(Path("edgeship.toml"), help="The config file."),
    out: Path | None = typer.Option(None, "--out", help="The work folder (default: edgeship-out beside the config)."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="A line for each thing that a stage does."),
    as_json: bool = JSON_OPTION,
) -> None:
    """The whole path: export, parity, calibrate, build, benchmark, evaluate, gate, report. Ends in a verdict.

    Exit codes: 0 SHIP, 1 NO-SHIP, 2 the input or the config is wrong, 3 INCONCLUSIVE, 4 a stage failed.
    """
    from edgeship import pipeline
    from edgeship.config import load
    from edgeship.decide.report import terminal_summary

    start = time.perf_counter()
    settings = load(config)
    with display(quiet=as_json, verbose=verbose) as shown:
        finished = pipeline.ship(settings, out or settings.root / "edgeship-out", shown.progress, shown.stage)
    if as_json:
        write_json(finished.result.model_dump(mode="json"))
    else:
        show(*terminal_summary(finished), f"done in {duration(time.perf_counter() - start)}")
    raise typer.Exit(VERDICT_CODES[finished.result.verdict])
