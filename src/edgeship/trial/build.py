"""The build step of a trial: from the spec's ONNX to a raw engine file in the trial's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship import engines
from edgeship.engines import BuildRequest
from edgeship.errors import ArtifactError
from edgeship.progress import Progress, silent
from edgeship.results import Build, TrialSpec

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds


def request_of(spec: TrialSpec, folder: Path, progress: Progress = silent) -> BuildRequest:
    """What the spec asks its engine to build: ``engine<SUFFIX>`` and ``build.log`` in ``folder``."""
    engine = engines.get(spec.target.engine)
    implicit = spec.candidate.precision == "implicit" and spec.cache is None
    return BuildRequest(
        onnx=folder / spec.model.path,
        output=folder / f"engine{engine.SUFFIX}",
        precision=spec.candidate.precision,
        target=spec.target,
        keep=spec.candidate.keep,
        cache=folder / spec.cache.path if spec.cache else None,
        log=folder / "build.log",
        frames=_batches(folder / spec.frames.path) if implicit and spec.frames else None,
        progress=progress,
    )


def build(spec: TrialSpec, folder: Path, progress: Progress = silent) -> Build:
    """Build the spec's candidate for its target.

    Raises:
        BuildError, PrecisionError: The engine builder refuses the candidate.
        DeviceError: The device is absent or full.
        MissingExtra: The engine's package is not installed.
    """
    return engines.get(spec.target.engine).build(request_of(spec, folder, progress))


def _batches(path: Path) -> Iterator[Feeds]:
    """The frames one row at a time, for an engine's own calibrator."""
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist", expected="the frames that spec.json names")
    with np.load(path, allow_pickle=False) as stored:
        arrays: dict[str, Array] = {name: stored[name] for name in stored.files}
    rows = max((array.shape[0] for array in arrays.values() if array.ndim), default=0)
    for row in range(rows):
        yield {name: array[row : row + 1] if array.ndim else array for name, array in arrays.items()}
