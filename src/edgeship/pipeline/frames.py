"""Real frames of a run: where they come from, which are taken, and what they are bound to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Config
from edgeship.errors import ConfigError, ModelError
from edgeship.pipeline.stages import Run
from edgeship.pipeline.user_code import code_hashes
from edgeship.results import Artifact, Result, TensorInfo

KNOWN_FRAMES = 8
"""Real frames that every trial gets: feeds of the benchmark and known input of the bundle."""


class KnownFrames(Result):
    """A few real frames, preprocessed, as feeds."""

    arrays: Artifact | None
    ids: tuple[str, ...] = ()


def frame_source(config: Config) -> Path | None:
    """Where real frames come from: calibration's, else evaluation's."""
    return config.calibration.images or config.calibration.npz or config.evaluation.images


def allow_corrupt(config: Config) -> int:
    """How many images of :func:`frame_source` may be corrupt."""
    own = config.calibration.images is not None or config.calibration.npz is not None
    return config.calibration.allow_corrupt if own else config.evaluation.allow_corrupt


def data_hash(run: Run, source: Path) -> Any:
    """One hash for a folder or a file; for ``module:callable`` its text and the code that it may run."""
    return run.hasher.tree(source) if source.exists() else [str(source), code_hashes(run, source)]


def evaluation_hash(run: Run) -> Any:
    """The evaluation images and what lies beside them: labels, class names."""
    settings = run.config.evaluation
    parts = [settings.images, settings.labels, settings.classes if isinstance(settings.classes, Path) else None]
    return [data_hash(run, part) for part in parts if part is not None]


def fit_batch(feeds: dict[str, Any], inputs: tuple[TensorInfo, ...]) -> dict[str, Any]:
    """Cut or repeat frames to a fixed batch axis; feeds in the graph's input order."""
    fitted = {}
    for info in inputs:
        if info.name not in feeds:
            raise ModelError(
                f"the frames give {', '.join(feeds)}, and the graph also needs {info.name!r}",
                do="give ready arrays for every input in [calibration] npz",
            )
        array = feeds[info.name]
        fixed = info.shape[0] if info.shape and isinstance(info.shape[0], int) else len(array)
        fitted[info.name] = rows_of(array, 0, fixed)
    return fitted


def rows_of(array: Any, start: int, count: int) -> Any:
    """``count`` rows from ``start`` on, from the beginning again when they run out."""
    return np.ascontiguousarray(np.take(array, range(start, start + count), axis=0, mode="wrap"))


def require_calibration(config: Config) -> None:
    """Refuse INT8 without frames.

    Raises:
        ConfigError: No frames and no cache.
    """
    settings = config.calibration
    if settings.images is None and settings.npz is None and settings.cache is None:
        raise ConfigError(["calibration.images: missing; INT8 needs frames from the deployment camera"])
