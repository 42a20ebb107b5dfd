"""A trial: a directory goes in, a directory comes out.

The folder holds ``spec.json`` and the files it names. Afterwards it also holds the engine, the arrays and
``trial.json``, which is written last: a folder with a ``trial.json`` is finished. Each step leaves its result in a
file of its own, so a killed trial continues with the step that was running.
"""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgeship import __version__, engines
from edgeship.config import Batch, Benchmark, Evaluation
from edgeship.data.feeds import batch_of, batch_size, fixed_batch, full_shapes, noise
from edgeship.engines import OpenOptions, Runner, processor
from edgeship.errors import (
    EdgeshipError,
    OutputError,
    StorageError,
    TargetError,
    UserInputError,
    WorkFolderBusy,
)
from edgeship.files import lock, storage_errors, walk, write_bytes
from edgeship.progress import Progress, silent
from edgeship.results import (
    Artifact,
    Audit,
    Build,
    Consistency,
    Energy,
    Evaluated,
    Failure,
    FrameTimes,
    Latency,
    Result,
    Starts,
    Trial,
    TrialSpec,
    read,
    trial_folder,
    write,
)
from edgeship.trial.consistency import Asked, audit_consistency, require_consistent, several
from edgeship.trial.energy import measure, meter_for
from edgeship.trial.frame import FrameAsk, frame_times
from edgeship.trial.shared import Turn, turn
from edgeship.trial.starts import starts

if TYPE_CHECKING:
    from edgeship.engines import Array

R = TypeVar("R", bound=Result)

STEPS = ("build", "audit", "consistency", "benchmark", "budget", "evaluate", "outputs")
MANY = 200
"""Images from which evaluation opens a session of its own."""
LARGE = 1 << 30
"""Bytes of an engine that is not opened twice."""
STOPS_THE_RUN = (UserInputError, StorageError, TargetError)
"""Errors that are not the candidate's fault: they leave :func:`run_trial` instead of becoming a Failure."""


@dataclass(frozen=True)
class _Place:
    """One trial under way."""

    folder: Path
    spec: TrialSpec
    progress: Progress
    turn: Turn

    def once(self, name: str, kind: type[R], work: Callable[[], R]) -> R:
        """The result in ``name``, made by ``work`` if it is not there or one of its files has changed."""
        if trial_folder.step_is_done(self.folder, name):
            return read(kind, self.folder / name)
        result = work()
        write(result, self.folder / name)
        trial_folder.note_step(self.folder, name, result)
        return result

    def say(self, step: str) -> None:
        """Report which step begins."""
        self.progress(STEPS.index(step), len(STEPS), f"{self.spec.candidate.name}: {step}")


def run_trial(folder: Path, progress: Progress = silent, *, patience_s: float = 30.0) -> Trial:
    """Build, audit, benchmark and evaluate what ``folder/spec.json`` asks for.

    An error of a step fails the candidate: it becomes ``Trial.failure``. So do outputs that cannot be decoded, though
    the config may be to blame: whoever tried the reference too can tell. A finished trial of the same spec is
    returned as it is.

    Args:
        folder: The trial's directory.
        progress: Told which step runs, and passed on to long steps.
        patience_s: How long to wait for another process that holds the folder.

    Raises:
        ArtifactError: The spec or a file it names is missing, changed or malformed.
        UserInputError: The evaluation data or the configuration is wrong, or a package is missing.
        StorageError: No space left or not writable. Run again: it continues.
        WorkFolderBusy: Another process works in the folder.
    """
    spec = trial_folder.read_spec(folder)
    with _held(folder, patience_s):
        trial_folder.forget_other_spec(folder)
        finished = trial_folder.finished_trial(folder)
        if finished is not None:
            return finished
        with storage_errors(folder), turn() as held:
            held.alone()
            return _run(_Place(folder, spec, progress, held))


def open_options(spec: TrialSpec) -> OpenOptions:
    """How this spec's engine is opened, for measuring and evaluating alike."""
    target = spec.target
    return OpenOptions(
        device=target.device,
        threads=target.threads,
        cuda_graph=target.cuda_graph,
        tf32=target.tf32,
        nhwc=target.nhwc,
        plugins=target.plugins,
    )


class _held:  # noqa: N801 - reads as a word at its one use
    """Hold a folder, waiting a little for a process that is just ending."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._folder = folder
        self._deadline = time.monotonic() + patience_s
        self._stack = ExitStack()

    def __enter__(self) -> None:
        while True:
            try:
                self._stack.enter_context(lock(self._folder))
                return
            except WorkFolderBusy:
                if time.monotonic() > self._deadline:
                    raise
                time.sleep(0.05)

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _run(place: _Place) -> Trial:
    start = time.perf_counter()
    spec = place.spec
    trial_folder.verify_artifacts(place.folder, spec.model, spec.cache, spec.frames)
    trial = Trial(
        candidate=spec.candidate,
        target_name=spec.target_name,
        engine=spec.target.engine,
        device=spec.target.device,
        rebuild=spec.rebuild,
        environment={
            "edgeship": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "system": f"{platform.system()} {platform.release()}",
            **{name: fact for name, fact in processor.facts().items() if name != "host"},
        },
    )
    for step in (_built, _measured):
        trial = step(place, trial)
    trial = trial.model_copy(update={"seconds": time.perf_counter() - start})
    trial_folder.write_trial(trial, place.folder)
    place.progress(len(STEPS), len(STEPS), f"{spec.candidate.name}: done")
    return trial


def _failed(trial: Trial, stage: str, error: EdgeshipError) -> Trial:
    failure = Failure(stage=stage, kind=type(error).__name__, message=str(error))
    return trial.model_copy(update={"failure": failure})


def _built(place: _Place, trial: Trial) -> Trial:
    from edgeship.trial.build import audit, build

    stage = "build"
    try:
        place.say("build")
        built = place.once(trial_folder.BUILD, Build, lambda: build(place.spec, place.folder, place.progress))
        trial_folder.verify_artifacts(place.folder, built.engine)
        trial = trial.model_copy(update={"build": built})
        stage = "audit"
        place.say("audit")
        audited = place.once(trial_folder.AUDIT, Audit, lambda: audit(place.spec, place.folder, built))
        return trial.model_copy(update={"audit": audited})
    except STOPS_THE_RUN:
        raise
    except EdgeshipError as error:
        return _failed(trial, stage, error)


def _measured(place: _Place, trial: Trial) -> Trial:
    built = trial.build
    if trial.failure is not None or built is None or not built.runnable:
        return trial
    stage = "open"
    try:
        begin = time.perf_counter()
        engine = engines.get(place.spec.target.engine)
        with engine.open(place.folder / built.engine.path, open_options(place.spec)) as runner:
            load_s = time.perf_counter() - begin
            stage = "consistency"
            place.say("consistency")
            consistent = _consistency(place, runner, built)
            trial = trial.model_copy(update={"consistency": consistent})
            require_consistent(consistent)
            if place.spec.benchmark is not None:
                stage = "benchmark"
                place.say("benchmark")
                latency = _latency(place, place.spec.benchmark, runner, built, load_s)
                trial = trial.model_copy(update={"latency": latency})
            stage = "budget"
            place.say("budget")
            trial = trial.model_copy(update=_budget(place, runner, built))
            place.turn.beside()
            stage = "evaluate"
            place.say("evaluate")
            trial = trial.model_copy(update={"evaluation": _evaluation(place, runner, built)})
            stage = "outputs"
            place.say("outputs")
            return trial.model_copy(update={"outputs": _outputs(place, runner, built)})
    except OutputError as error:
        return _failed(trial, stage, error)
    except STOPS_THE_RUN:
        raise
    except EdgeshipError as error:
        return _failed(trial, stage, error)


def _consistency(place: _Place, runner: Runner, built: Build) -> Consistency:
    spec = place.spec
    asked = Asked(spec.candidate.precision, built_batch(spec, built), timed_batch(spec, built), spec.target.tf32)
    frames = several(frames_of(place.folder, place.spec, built), built.inputs)
    return place.once(
        trial_folder.CONSISTENCY, Consistency, lambda: audit_consistency(runner, frames, asked, place.progress)
    )


def _latency(place: _Place, settings: Benchmark, runner: Runner, built: Build, load_s: float) -> Latency:
    from edgeship.trial.benchmark import benchmark

    batch = timed_batch(place.spec, built)

    def measure() -> Latency:
        feeds = batch_of(frames_of(place.folder, place.spec, built), built.inputs, batch)
        latency = benchmark(
            runner, feeds, settings, folder=place.folder, progress=place.progress, gated=place.spec.gated
        )
        return latency.model_copy(update={"load_s": load_s})

    return place.once(trial_folder.LATENCY, Latency, measure)


def _budget(place: _Place, runner: Runner, built: Build) -> dict[str, Result]:
    """What a frame costs besides latency, as far as the spec asks for it: fields of the trial."""
    spec, asked = place.spec, place.spec.budget
    batch = timed_batch(spec, built)
    found: dict[str, Result] = {}
    if asked.energy:
        feeds = batch_of(frames_of(place.folder, spec, built), built.inputs, batch)
        found["energy"] = place.once(trial_folder.ENERGY, Energy, lambda: _energy(place, runner, feeds, batch))
    if asked.starts:
        found["starts"] = place.once(trial_folder.STARTS, Starts, lambda: starts(place.folder, place.progress))
    if asked.frame and spec.evaluation is not None and spec.preprocess is not None:
        settings = spec.benchmark or Benchmark()
        ask = FrameAsk(spec.evaluation, spec.preprocess, settings, batch, spec.classes, asked.fps)
        found["frame"] = place.once(
            trial_folder.FRAME, FrameTimes, lambda: frame_times(runner, ask, place.folder, place.progress)
        )
    return found


def _energy(place: _Place, runner: Runner, feeds: dict[str, Array], batch: int) -> Energy:
    meter = meter_for(place.spec.target.device)
    try:
        return measure(runner.timer(feeds), batch, meter, progress=place.progress)
    finally:
        meter.close()


def _few(settings: Evaluation) -> bool:
    """Whether so few images are evaluated that opening another session costs more than it spares."""
    if settings.limit is not None and settings.limit < MANY:
        return True
    images = settings.images
    return images is not None and images.is_dir() and sum(1 for _ in islice(walk(images), MANY)) < MANY


@contextmanager
def _judging(place: _Place, runner: Runner, built: Build) -> Iterator[Runner]:
    """The runner that evaluates: of many images on onnxruntime's CPU one whose waiting threads leave the cores to the
    decoding of images; the timed one where that would not answer the very same."""
    spec, path = place.spec, place.folder / built.engine.path
    here = (spec.target.engine, spec.target.device) == ("onnxruntime", "cpu")
    if not here or spec.evaluation is None or _few(spec.evaluation) or path.stat().st_size > LARGE:
        yield runner
        return
    with engines.get("onnxruntime").open(path, replace(open_options(spec), judging=True)) as other:
        feeds = batch_of(frames_of(place.folder, spec, built), built.inputs, timed_batch(spec, built))
        wanted, found = runner.infer(feeds), other.infer(feeds)
        same = all(
            np.array_equal(wanted[name], found[name], equal_nan=wanted[name].dtype.kind == "f") for name in wanted
        )
        yield other if same else runner


def _evaluation(place: _Place, runner: Runner, built: Build) -> Evaluated | None:
    from edgeship.trial.evaluate import evaluate

    spec = place.spec
    if spec.evaluation is None or spec.evaluation.images is None or spec.preprocess is None:
        return None
    preprocess = spec.preprocess
    settings = spec.evaluation.model_copy(update={"batch": spec.evaluation.batch or timed_batch(spec, built)})

    def evaluated() -> Evaluated:
        with _judging(place, runner, built) as judge:
            return evaluate(
                judge,
                settings,
                preprocess,
                classes=spec.classes,
                folder=place.folder,
                progress=place.progress,
                batch=built_batch(spec, built),
            )

    return place.once(trial_folder.EVALUATION, Evaluated, evaluated)


def frames_of(folder: Path, spec: TrialSpec, built: Build) -> dict[str, Array]:
    """The spec's frames, or seeded noise of the profile's shapes: enough for time, never for accuracy."""
    if spec.frames is not None:
        with np.load(folder / spec.frames.path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    best = {name: profile[1] for name, profile in built.profiles.items()}
    return noise(built.inputs, full_shapes(built.inputs, built_batch(spec, built).opt, best))


def built_batch(spec: TrialSpec, built: Build) -> Batch:
    """The batches that the engine was built for, read from its profile; ``target.shapes`` may differ from the batch."""
    for info in built.inputs:
        if info.shape and isinstance(info.shape[0], str) and info.name in built.profiles:
            low, best, high = (shape[0] for shape in built.profiles[info.name])
            return Batch(min=low, opt=best, max=high)
    return spec.target.batch


def timed_batch(spec: TrialSpec, built: Build) -> int:
    """The batch that is timed and shipped; accuracy is evaluated at it too."""
    chosen = spec.benchmark.batch if spec.benchmark is not None else None
    return chosen or built_batch(spec, built).opt


def _outputs(place: _Place, runner: Runner, built: Build) -> Artifact | None:
    """Run the spec's frames in the smallest batches of the profile; keep the first batch as the known answer."""
    if place.spec.frames is None:
        return None
    frames = frames_of(place.folder, place.spec, built)
    rows = batch_size(built.inputs, {name: array.shape for name, array in frames.items()})
    step = fixed_batch(built.inputs) or built_batch(place.spec, built).min
    known: dict[str, Array] = {}
    collected: dict[str, list[Array]] = {}
    for start in range(0, max(rows - rows % step, step), step):
        feeds = batch_of(frames, built.inputs, step, start)
        answer = runner.infer(feeds)
        if not known:
            known = {f"in:{name}": array for name, array in feeds.items()}
            known |= {f"out:{name}": array for name, array in answer.items()}
        for name, array in answer.items():
            collected.setdefault(name, []).append(np.atleast_1d(array))
    save_arrays(place.folder / trial_folder.KNOWN_ANSWER, known)
    path = place.folder / trial_folder.OUTPUTS
    save_arrays(path, {name: np.concatenate(parts) for name, parts in collected.items()})
    return Artifact.of(path, place.folder)


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write an .npz atomically; equal arrays give equal bytes."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())
