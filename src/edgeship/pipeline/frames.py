"""Real frames of a run: where they come from, which are taken, and what they are bound to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship import engines
from edgeship.config import Config
from edgeship.data.beside import Which, files_of
from edgeship.engines import OpenOptions
from edgeship.errors import ConfigError
from edgeship.pipeline.stages import Run
from edgeship.pipeline.user_code import code_hashes
from edgeship.results import Artifact, Result

KNOWN_FRAMES = 8
"""Real frames that every trial gets: feeds of the benchmark and known input of the bundle."""


class KnownFrames(Result):
    """A few real frames, preprocessed, as feeds."""

    arrays: Artifact | None
    ids: tuple[str, ...] = ()


def frame_source(config: Config) -> Path | None:
    """Where real frames come from: calibration's, else evaluation's."""
    return config.calibration.images or config.calibration.npz or config.evaluation.images


def which_set(config: Config) -> Which:
    """The set that :func:`frame_source` belongs to."""
    return "evaluation" if config.calibration.images is None and config.calibration.npz is None else "calibration"


def beside_hash(run: Run, which: Which) -> Any:
    """What stands beside the images of a set: a hash of the files of each input that has some there."""
    declared = run.config.preprocess.inputs if run.config.preprocess is not None else {}
    places = {name: files_of(item, which) for name, item in declared.items()}
    return {name: run.hasher.tree(place) for name, place in sorted(places.items()) if place is not None}


def remembering(config: Config, model: Path) -> dict[str, Any]:
    """What :class:`edgeship.data.frames.FrameChoice` needs for a model with memory: its sequences, and how it opens."""
    if config.preprocess is None or not config.preprocess.state:
        return {}
    options = OpenOptions(device="cpu")
    return {"group": config.evaluation.group, "opened": lambda: engines.get("onnxruntime").open(model, options)}


def allow_corrupt(config: Config) -> int:
    """How many images of :func:`frame_source` may be corrupt."""
    return getattr(config, which_set(config)).allow_corrupt  # type: ignore[no-any-return]


def data_hash(run: Run, source: Path) -> Any:
    """One hash for a folder or a file; for ``module:callable`` its text and the code that it may run."""
    return run.hasher.tree(source) if source.exists() else [str(source), code_hashes(run, source)]


def evaluation_hash(run: Run) -> Any:
    """The evaluation images and what lies beside them: labels, class names, values of other inputs."""
    settings = run.config.evaluation
    parts = [settings.images]
    for item in (settings, *settings.tasks.values()):
        names = [value for value in (item.classes, item.label_classes) if isinstance(value, Path)]
        parts += [item.labels, *names]
    return [*(data_hash(run, part) for part in parts if part is not None), beside_hash(run, "evaluation")]


def evaluation_code(run: Run) -> Any:
    """The user's code that the evaluation may run."""
    settings = run.config.evaluation
    return code_hashes(
        run, *(value for item in (settings, *settings.tasks.values()) for value in (item.task, item.decoder))
    )


def require_calibration(config: Config) -> None:
    """Refuse INT8 without frames.

    Raises:
        ConfigError: No frames and no cache.
    """
    settings = config.calibration
    if settings.images is None and settings.npz is None and settings.cache is None:
        raise ConfigError(["calibration.images: missing; INT8 needs frames from the deployment camera"])
