"""The build step of a trial: from the spec's ONNX to a raw engine file in the trial's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship import engines
from edgeship.data.npz import open_npz
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.progress import Progress, silent
from edgeship.results import Audit, Build, TrialSpec

if TYPE_CHECKING:
    from edgeship.engines import Feeds


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
        frames=single_frames(folder / spec.frames.path) if implicit and spec.frames else None,
        progress=progress,
    )


def build(spec: TrialSpec, folder: Path, progress: Progress = silent) -> Build:
    """Build the spec's candidate for its target.

    Raises:
        BuildError, PrecisionError: The engine builder refuses the candidate.
        DeviceError: The device is absent or full.
        MissingExtra: The engine's package is not installed.
    """
    built = engines.get(spec.target.engine).build(request_of(spec, folder, progress))
    if not spec.target.tune:
        return built
    from edgeship.trial.tuning import tuned

    return tuned(spec, folder, built, progress)


def single_frames(path: Path) -> Iterator[Feeds]:
    """The rows of an ``.npz`` with one array for each input, one at a time, for an engine's own calibrator.

    Raises:
        DataError: Absent, or no ``.npz`` of plain arrays.
    """
    arrays = open_npz(path)
    rows = max((array.shape[0] for array in arrays.values() if array.ndim), default=0)
    return (
        {name: array[row : row + 1] if array.ndim else array for name, array in arrays.items()} for row in range(rows)
    )


def audit(spec: TrialSpec, folder: Path, build: Build) -> Audit:
    """Look into the built engine, or at the parsed network where the engine does not run here.

    Raises:
        EngineError: The engine cannot be inspected, or its layers ran elsewhere than asked for.
    """
    target = spec.target
    options = OpenOptions(
        device=target.device, threads=target.threads, tf32=target.tf32, nhwc=target.nhwc, plugins=target.plugins
    )
    engine = engines.get(target.engine)
    return engine.audit(folder / build.engine.path, request_of(spec, folder), options)
