"""A config whose recordings became folders of frames, before any stage looks at them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgeship.config import Config, Evaluation, Preprocess
from edgeship.data.streams import unpacked
from edgeship.progress import Progress, silent

FOLDER = "frames"
"""Of a work folder: the frames of videos, bags and raw files."""
BY_STREAM = r"^(.+)/[^/]+$"
"""``evaluation.group`` of frames out of recordings: those of one recording are not independent."""


def with_frames(config: Config, scratch: Path, progress: Progress = silent, *, tidy: bool = False) -> Config:
    """The config with a folder of images in the place of every video, bag and file of raw dumps.

    Frames of an evaluation recording are grouped by it where ``evaluation.group`` says nothing else. Frames that lie
    in ``scratch`` and that this config does not use are removed.

    Raises:
        DataError: A recording cannot be read, or gives no frames.
        MissingExtra: What reads it is not installed.
    """
    steps = config.preprocess
    layout = steps.raw if steps is not None else None
    used: set[Path] = set()

    def folder(place: Path | None) -> Path | None:
        if place is None:
            return None
        found = unpacked(place, config.frames, layout, scratch, progress)
        used.update({found} - {place})
        return found

    def told(section: Any, *keys: str) -> Any:
        new = {key: folder(getattr(section, key)) for key in keys}
        return section.model_copy(update=new) if any(new[key] != getattr(section, key) for key in keys) else section

    evaluation = _grouped(config.evaluation, folder(config.evaluation.images))
    update = {"calibration": told(config.calibration, "images"), "evaluation": evaluation}
    if config.qat is not None:
        update["qat"] = told(config.qat, "images")
    if steps is not None:
        inputs = {
            name: told(item, "calibration", "evaluation") if item.origin == "images" else item
            for name, item in steps.inputs.items()
        }
        update["preprocess"] = _with_inputs(steps, inputs)
    for left in set(scratch.glob("*")) - used if tidy and scratch.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)
    return config.model_copy(update=update)


def _grouped(settings: Evaluation, images: Path | None) -> Evaluation:
    if images == settings.images:
        return settings
    tasks = {name: _grouped(item, images) for name, item in settings.tasks.items()}
    return settings.model_copy(update={"images": images, "group": settings.group or BY_STREAM, "tasks": tasks})


def _with_inputs(steps: Preprocess, inputs: dict[str, Any]) -> Preprocess:
    return steps.model_copy(update={"inputs": inputs}) if inputs else steps
