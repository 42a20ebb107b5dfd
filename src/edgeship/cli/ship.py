"""``ship``: the whole path, one verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli import app
from edgeship.cli.output import JSON_OPTION, console, progress_bar

if TYPE_CHECKING:
    from edgeship.results import StageRun

EXIT = {"SHIP": 0, "NO-SHIP": 1, "INCONCLUSIVE": 3}


@app.command()
def ship(
    config: Path = typer.Argument(Path("edgeship.toml"), help="The config file."),
    out: Path | None = typer.Option(None, "--out", help="The work folder (default: edgeship-out beside the config)."),
    as_json: bool = JSON_OPTION,
) -> None:
    """The whole path: export, parity, calibrate, build, benchmark, evaluate, gate, report. Ends in a verdict."""
    import time

    from edgeship.config import load

    start = time.perf_counter()
    settings = load(config)
    folder = out or settings.root / "edgeship-out"
    with progress_bar(quiet=as_json) as progress:
        from edgeship import pipeline

        screen = console(stderr=True)

        def on_stage(name: str, run: StageRun | None) -> None:
            if run is None:
                progress(0, None, name)
            elif not as_json:
                how = "reused" if run.cached else f"{run.seconds:.1f} s"
                screen.print(f"  {name:<40} {how}", markup=False)

        finished = pipeline.ship(settings, folder, progress, on_stage)
    if as_json:
        print(finished.result.model_dump_json(indent=2))
    else:
        from edgeship.decide.report import terminal_summary

        screen = console()
        for line in terminal_summary(finished):
            screen.print(line)
        screen.print(f"done in {time.perf_counter() - start:.1f} s", markup=False)
    raise typer.Exit(EXIT[finished.result.verdict])
