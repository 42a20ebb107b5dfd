"""``qat``: train INT8 where calibration is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli.app import app
from edgeship.cli.live import display, duration
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import CHANGES, CONFIG, OUT
from edgeship.errors import DeviceError, EdgeshipError
from edgeship.qat.launched import is_follower, place

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.config import Config
    from edgeship.qat.team import Team
    from edgeship.results import Trained


@app.command()
def qat(
    config: Path = CONFIG,
    changes: list[str] = CHANGES,
    out: Path | None = OUT,
    as_json: bool = JSON_OPTION,
) -> None:
    """Train INT8 where calibration is not enough: the deployed graph's rounding in the model, its ranges learned.

    ship takes over what was trained, as the candidate int8-qat. A killed training goes on with the same command. On
    several GPUs: torchrun --nproc-per-node 2 -m edgeship qat edgeship.toml. Exit codes: 0 trained (also where it did
    not help, which is said), 2 the input or the config is wrong, 4 a stage failed.
    """
    from edgeship import pipeline
    from edgeship.config_file import load

    if is_follower():
        _follow(config, changes, out)
        return
    settings = load(config, changes)
    with _together(settings) as team, display(quiet=as_json) as shown:
        work = out or settings.root / "edgeship-out"
        trained, folder = pipeline.train(settings, work, shown.progress, shown.stage, team)
    told = {**trained.model_dump(mode="json"), "folder": str(folder), "improved": trained.improved}
    emit(told, as_json=as_json, lines=lambda: _lines(trained, folder, config))


def _follow(config: Path, changes: list[str], out: Path | None) -> None:
    """The part of a process that is not the first: the first one says for all how it went."""
    from edgeship import pipeline
    from edgeship.config_file import load

    team = None
    try:
        settings = load(config, changes)
        with _together(settings) as team:
            if team is not None:
                pipeline.follow(settings, out or settings.root / "edgeship-out", team)
    except EdgeshipError as error:
        if isinstance(error, DeviceError) and team is not None and team.common is None:
            raise  # what this device alone met
        raise typer.Exit(error.exit_code) from error


@contextmanager
def _together(settings: Config) -> Iterator[Team | None]:
    """The processes that torchrun or accelerate started; None where this is the only one."""
    where = place()
    if where is None or settings.qat is None:
        yield None
        return
    from edgeship.qat.team import joined  # loads torch

    with joined(where, settings.qat.device) as team:
        yield team


def _lines(trained: Trained, folder: Path, config: Path) -> Lines:
    missed = f"; {len(trained.not_rounded)} not: {', '.join(trained.not_rounded[:3])}" if trained.not_rounded else ""
    where = trained.device if trained.processes == 1 else f"{trained.processes} processes from {trained.device} on"
    yield f"trained            {trained.how}, {trained.steps} steps on {where}, {duration(trained.seconds)}"
    if trained.resumed_at is not None:
        yield f"went on            from step {trained.resumed_at}"
    yield f"rounded            {trained.rounded} activations, {trained.weighted} weights{missed}"
    yield f"judged on          {trained.judged_on}"
    for point in trained.curve:
        loss = f", training loss {point.loss:.4g}" if point.loss is not None else ", calibrated INT8"
        best = "  <- kept" if point.step == trained.best_step else ""
        yield f"  step {point.step:>6}       {point.held_out:.4g}{loss}{best}"
    yield f"deployed graph     {trained.deployed_snr_db:.1f} dB against the model as it was trained"
    if not trained.improved:
        yield "warning: no trained state is better than calibration alone; int8-qat will not ship"
    yield f"weights            {folder / trained.weights.path}"
    yield from (f"note: {note}" for note in trained.notes)
    yield f"try it as the candidate int8-qat: edgeship ship {config}"
