"""``ship``: the whole path, one verdict."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli.app import app
from edgeship.cli.live import display, duration
from edgeship.cli.output import JSON_OPTION, console, emit, rendered, repeat, show, write_json
from edgeship.cli.settings import CHANGES, CONFIG, OUT, VERDICT_CODES
from edgeship.errors import StorageError
from edgeship.files import read_text

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.pipeline.planned import Planned


@app.command()
def ship(
    config: Path = CONFIG,
    changes: list[str] = CHANGES,
    out: Path | None = OUT,
    fresh: bool = typer.Option(False, "--fresh", help="Do every stage again; nothing of an earlier run is reused."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would run and what is reused, and stop."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="A line for each thing that a stage does."),
    as_json: bool = JSON_OPTION,
) -> None:
    """The whole path: export, parity, calibrate, build, benchmark, evaluate, gate, report. Ends in a verdict.

    Exit codes: 0 SHIP, 1 NO-SHIP, 2 the input or the config is wrong, 3 INCONCLUSIVE, 4 a stage failed.
    """
    from edgeship import unchanged

    start = time.perf_counter()
    asked = unchanged.Asked(config, tuple(changes), (sys.stdout.isatty(), console().width))
    if not (fresh or dry_run):
        place = out or (config if config.is_dir() else config.parent) / "edgeship-out"
        said = unchanged.answered(place, asked)
        if said is not None:
            raise typer.Exit(_as_before(place, said, start, as_json=as_json))
    from edgeship import pipeline
    from edgeship.config_file import load
    from edgeship.decide.report import terminal_summary

    settings = load(config, changes)
    folder = out or settings.root / "edgeship-out"
    if dry_run:
        planned = pipeline.plan(settings, folder)
        told = {"stages": [asdict(item) for item in planned]}
        emit(told, as_json=as_json, lines=lambda: _plan_lines(planned, fresh=fresh))
        return
    with display(quiet=as_json, verbose=verbose) as shown:
        finished = pipeline.ship(settings, folder, shown.progress, shown.stage, fresh)
    if as_json:
        write_json(finished.result.model_dump(mode="json"))
    else:
        labels = (f"labels: {finished.result.labels}",) if finished.result.labels else ()
        notes = (f"warning: {note}" for note in (*finished.result.warnings, *finished.notes))
        said = rendered(*labels, *notes, *terminal_summary(finished))
        repeat(said)
        show(f"done in {duration(time.perf_counter() - start)}")
        with suppress(StorageError):
            unchanged.complete(folder, asked, said)
    raise typer.Exit(VERDICT_CODES[finished.result.verdict])


def _as_before(folder: Path, said: str, start: float, *, as_json: bool) -> int:
    """Say what stands in the work folder of a run that would end as it did; its exit code."""
    result = json.loads(read_text(folder / "result.json"))
    if as_json:
        write_json(result)
    else:
        repeat(said)
        show(
            f"nothing that went in or came out has changed since {result['finished']}: the verdict stands",
            f"done in {duration(time.perf_counter() - start)}",
        )
    return VERDICT_CODES[result["verdict"]]


def _plan_lines(planned: tuple[Planned, ...], *, fresh: bool) -> Lines:
    left = 0.0
    for item in planned:
        runs = fresh or not item.reused
        took = f", took {duration(item.seconds)} before" if item.seconds is not None else ""
        left += (item.seconds or 0.0) if runs else 0.0
        yield f"  {item.name:<28} {'runs' + took if runs else 'reused'}"
    running = [item for item in planned if fresh or not item.reused]
    unknown = sum(item.seconds is None for item in running)
    if not running:
        yield "everything is reused; only the report and the bundle are written again"
    elif unknown == len(running):
        yield "how long it takes is not known: nothing of it ran here before"
    else:
        more = f", and {unknown} stages that never ran here" if unknown else ""
        yield f"about {duration(left)}{more}"
