"""``check``: everything that is wrong with a config, in seconds, before the long run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.cli.app import app
from edgeship.cli.live import display
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import CHANGES, CONFIG, OUT

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.pipeline import Checked

MOST_CLASSES = 12
"""Classes whose counts are printed; all of them are in the JSON."""


@app.command()
def check(
    config: Path = CONFIG,
    changes: list[str] = CHANGES,
    out: Path | None = OUT,
    as_json: bool = JSON_OPTION,
) -> None:
    """Everything that is wrong with a config, at once; and what the reference answers on a few images.

    ship begins with the same check and takes over what was done here. Exit codes: 0 nothing stops a run (there may be
    warnings), 2 the input or the config is wrong, 4 a stage failed.
    """
    from edgeship import pipeline
    from edgeship.config_file import load

    settings = load(config, changes)
    with display(quiet=as_json) as shown:
        found = pipeline.check(settings, out or settings.root / "edgeship-out", shown.progress, shown.stage)
    told = {
        **found.looked.model_dump(mode="json"),
        "warnings": list(found.warnings),
        "picture": str(found.picture) if found.picture else None,
    }
    emit(told, as_json=as_json, lines=lambda: _lines(found, config))


def _lines(found: Checked, config: Path) -> Lines:
    looked = found.looked
    yield f"labelled images      {looked.images or 'none: no accuracy is judged'}"
    if looked.labels:
        yield f"labels               {looked.labels}"
    counts = sorted(looked.examples.items(), key=lambda item: (item[1], item[0]))
    if counts:
        shown = ", ".join(f"{name} {count}" for name, count in counts[:MOST_CLASSES])
        more = f" and {len(counts) - MOST_CLASSES} more" if len(counts) > MOST_CLASSES else ""
        yield f"examples per class   {shown}{more}"
    yield f"calibration frames   {looked.frames or 'none found as files'}"
    if looked.metrics:
        values = ", ".join(f"{name} {value:.4f}" for name, value in looked.metrics.items())
        yield f"reference            {values} on {looked.judged} images"
    for image, answer in looked.answers.items():
        yield f"  {image}: {answer}"
    if looked.low is not None and looked.high is not None:
        yield f"network's input      {looked.low:.3g} to {looked.high:.3g}"
    if found.picture is not None:
        yield f"as the network sees  {found.picture}"
    for warning in found.warnings:
        yield f"warning: {warning}"
    yield f"nothing stops a run: edgeship ship {config}"
