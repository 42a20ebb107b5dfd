"""``qat``: train INT8 where calibration is not enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.cli.app import app
from edgeship.cli.live import display, duration
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import CHANGES, CONFIG, OUT

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.results import Trained


@app.command()
def qat(
    config: Path = CONFIG,
    changes: list[str] = CHANGES,
    out: Path | None = OUT,
    as_json: bool = JSON_OPTION,
) -> None:
    """Train INT8 where calibration is not enough: the deployed graph's rounding in the model, its ranges learned.

    ship takes over what was trained, as the candidate int8-qat. A killed training goes on with the same command. Exit
    codes: 0 trained (also where it did not help, which is said), 2 the input or the config is wrong, 4 a stage failed.
    """
    from edgeship import pipeline
    from edgeship.config_file import load

    settings = load(config, changes)
    with display(quiet=as_json) as shown:
        trained, folder = pipeline.train(settings, out or settings.root / "edgeship-out", shown.progress, shown.stage)
    told = {**trained.model_dump(mode="json"), "folder": str(folder), "improved": trained.improved}
    emit(told, as_json=as_json, lines=lambda: _lines(trained, folder, config))


def _lines(trained: Trained, folder: Path, config: Path) -> Lines:
    missed = f"; {len(trained.not_rounded)} not: {', '.join(trained.not_rounded[:3])}" if trained.not_rounded else ""
    yield f"trained            {trained.how}, {trained.steps} steps on {trained.device}, {duration(trained.seconds)}"
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
