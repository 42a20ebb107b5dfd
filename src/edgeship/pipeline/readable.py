"""The stage that opens the images of a run once, so that those which cannot be read are told before anything long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.config import Config, Preprocess
from edgeship.data.datasets import open_dataset
from edgeship.data.frames import image_files, spread
from edgeship.data.reference import is_reference
from edgeship.data.stored import indexed
from edgeship.data.unreadable import require_readable
from edgeship.errors import ConfigError, DataError
from edgeship.pipeline.frames import beside_hash, data_hash, evaluation_hash
from edgeship.pipeline.stages import Run, Stage
from edgeship.results import Result


class Readable(Result):
    """How many image files of each set were looked at: by the setting that names the set."""

    files: dict[str, int]


def readable_key(run: Run) -> Any:
    """The images, how many of them are used, and how many may be unreadable."""
    evaluation, calibration = run.config.evaluation, run.config.calibration
    source = calibration.images
    return {
        "evaluation": [evaluation_hash(run), evaluation.limit, evaluation.allow_corrupt],
        "calibration": data_hash(run, source) if source is not None else None,
        "beside": beside_hash(run, "calibration"),
        "frames": [calibration.count, calibration.seed, calibration.allow_corrupt],
    }


def look_at_images(run: Run, folder: Path) -> Readable:
    """Open the images of both sets, of every camera.

    Raises:
        DataError: More of one set cannot be read than may be corrupt.
        ConfigError: More of several.
    """
    config, found, looked = run.config, [], {}
    for item in (_calibration(config), _evaluation(config), *_cameras(config)):
        looked[item.key] = len(item.files)
        run.progress(0, None, f"opening {item.key}")
        try:
            require_readable(item.key, item.files, item.folder, item.allowed, item.steps or config.preprocess)
        except DataError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigError([error.found for error in found], where=str(config.file), do=found[0].do)
    return Readable(files=looked)


@dataclass(frozen=True)
class _Set:
    """The setting that names a set, its files, their folder, how many may be unreadable, a camera's own steps."""

    key: str
    files: list[Path]
    folder: Path
    allowed: int
    steps: Preprocess | None = None


def _calibration(config: Config) -> _Set:
    settings, name = config.calibration, "calibration.images"
    if settings.images is None or is_reference(settings.images):
        return _Set(name, [], Path(), 0)
    files = image_files(settings.images)
    chosen = [files[place] for place in spread(len(files), settings.count, settings.seed)]
    return _Set(name, chosen, settings.images, settings.allow_corrupt)


def _evaluation(config: Config) -> _Set:
    settings, name = config.evaluation, "evaluation.images"
    if settings.images is None:
        return _Set(name, [], Path(), 0)
    items = open_dataset(settings).items
    files = [item.source for item in items if isinstance(item.source, Path)] if isinstance(items, tuple) else []
    return _Set(name, files, settings.images, settings.allow_corrupt)


def _cameras(config: Config) -> list[_Set]:
    """The pictures of the other cameras."""
    found = []
    for name, declared in (config.preprocess.inputs if config.preprocess is not None else {}).items():
        for which, allowed in (
            ("calibration", config.calibration.allow_corrupt),
            ("evaluation", config.evaluation.allow_corrupt),
        ):
            place: Path | None = getattr(declared, which)
            if declared.origin == "images" and place is not None:
                files = image_files(place) if place.is_dir() else sorted(set(indexed(name, place).values()))
                folder = place if place.is_dir() else place.parent
                found.append(_Set(f"inputs.{name}.{which}", files, folder, allowed, declared.preprocess))
    return found


IMAGES = Stage("images", Readable, readable_key, look_at_images)
