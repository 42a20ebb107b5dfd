"""Real frames of a run: where they come from, which are taken, and what they are bound to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.config import Config
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
    names = [value for value in (settings.classes, settings.label_classes) if isinstance(value, Path)]
    parts = [settings.images, settings.labels, *names]
    return [data_hash(run, part) for part in parts if part is not None]


def require_calibration(config: Config) -> None:
    """Refuse INT8 without frames.

    Raises:
        ConfigError: No frames and no cache.
    """
    settings = config.calibration
    if settings.images is None and settings.npz is None and settings.cache is None:
        raise ConfigError(["calibration.images: missing; INT8 needs frames from the deployment camera"])
