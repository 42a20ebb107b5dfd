"""Candidates and their trials: which graph a candidate needs, and the stage that tries it on a target."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeship import targets
from edgeship.config import Config, Precision, Target
from edgeship.errors import EdgeshipError, OutputError, UserInputError
from edgeship.files import storage_errors
from edgeship.pipeline.prepare import KnownFrames, evaluation_hash
from edgeship.pipeline.stages import Run, Stage, execute_in, execute_one, versions
from edgeship.pipeline.user_code import code_hashes
from edgeship.results import (
    Artifact,
    Calibrated,
    Candidate,
    Failure,
    Quantized,
    Searched,
    Slimmed,
    Trial,
    TrialSpec,
    trial_folder,
)

REFERENCE = "reference"
PREVIEW = "preview"
Style = Literal["onnxruntime", "tensorrt"]


def candidates(config: Config) -> tuple[Candidate, ...]:
    """The candidates that the config names, in its order."""
    keep = config.quantization.keep
    named = [
        Candidate(name=item, precision=item, keep=() if item in ("fp32", "fp16") else keep)
        for item in dict.fromkeys(config.candidates.precisions)
    ]
    if config.candidates.keep:
        named.append(Candidate(name="int8-keep", precision="int8", keep=(*keep, *config.candidates.keep)))
    return tuple(named)


def needs_calibration(candidate: Candidate) -> bool:
    """Whether the candidate rests on INT8 ranges."""
    return candidate.precision not in ("fp32", "fp16")


def resolved_precision(precision: Precision, target: Target) -> Precision:
    """``int8`` by the engine's usual companion: FP16 beside it on TensorRT, FP32 on onnxruntime."""
    if precision == "int8":
        return "int8-fp32" if target.engine == "onnxruntime" else "int8-fp16"
    return precision


def graph_stage(candidate: Candidate, tries: Tries) -> Stage[Quantized]:
    """The stage that makes a candidate's ONNX for a target, or for its preview."""
    style, precision = tries.style, resolved_precision(candidate.precision, tries.target)

    def key(run: Run) -> Any:
        depends: dict[str, Any] = {
            "model": run.result("slim", Slimmed).model.sha256,
            "precision": precision,
            "keep": candidate.keep,
            "style": style,
            "per_channel": run.config.quantization.per_channel,
            "frames": run.result("frames", KnownFrames).model_dump(mode="json"),
            "versions": versions("onnxruntime", "nvidia-modelopt", "onnx"),
        }
        if needs_calibration(candidate):
            calibrated = run.result("calibrate", Calibrated)
            depends["ranges"] = [calibrated.ranges.sha256, calibrated.cache.sha256, calibrated.method]
        return depends

    def work(run: Run, folder: Path) -> Quantized:
        from edgeship.pipeline.calibration import make_graph

        return make_graph(run, folder, candidate, precision, style)

    return Stage(graph_name(candidate, tries), Quantized, key, work)


def reference_target(config: Config) -> tuple[str, Target]:
    """Where the FP32 reference runs: a target that is onnxruntime here, else onnxruntime on this CPU."""
    targets = config.all_targets()
    for name, target in targets.items():
        if target.engine == "onnxruntime" and target.host is None:
            return name, target
    return REFERENCE, on_this_cpu(next(iter(targets.values())))


def on_this_cpu(target: Target) -> Target:
    """onnxruntime on this machine's processor, for a target's batches and shapes."""
    return Target(engine="onnxruntime", device="cpu", batch=target.batch, shapes=target.shapes)


def style_of(target: Target) -> Style:
    """Whose placement of Q/DQ an engine wants."""
    return "onnxruntime" if target.engine == "onnxruntime" else "tensorrt"


def graph_name(candidate: Candidate, tries: Tries) -> str:
    """The stage whose graph a candidate is built from."""
    if candidate.precision in ("fp32", "implicit"):
        return "slim"
    return f"quantize:{PREVIEW if tries.preview else tries.style}:{candidate.name}"


def trial_stage(candidate: Candidate, tries: Tries, rebuild: int = 0) -> Stage[Trial]:
    """The stage that builds, audits, benchmarks and evaluates a candidate on a target."""
    name, target = tries.name, tries.target
    graph = graph_name(candidate, tries)

    def key(run: Run) -> Any:
        return {
            "model": _graph_hash(run, graph),
            "cache": run.result("calibrate", Calibrated).cache.sha256 if candidate.precision == "implicit" else None,
            "spec": _spec(run, candidate, tries, rebuild).model_dump(mode="json"),
            "images": evaluation_hash(run),
            "plugins": [run.hasher.file(path) for path in target.plugins if path.is_file()],
            "code": code_hashes(run, run.config.evaluation.task, run.config.evaluation.decoder),
            "machine": _machine(run, target),
        }

    def work(run: Run, folder: Path) -> Trial:
        spec = _spec(run, candidate, tries, rebuild)
        with storage_errors(folder):
            shutil.copyfile(run.path(graph, "model.onnx"), folder / trial_folder.MODEL)
            if spec.cache is not None:
                shutil.copyfile(run.path("calibrate", spec.cache.path), folder / spec.cache.path)
            if spec.frames is not None:
                shutil.copyfile(run.path("frames", spec.frames.path), folder / spec.frames.path)
        trial_folder.write_spec(spec, folder)
        return targets.run(target, folder, run.progress, timeout_s=run.config.candidates.timeout_s)

    suffix = f"#{rebuild}" if rebuild else ""
    return Stage(
        f"trial:{name}:{candidate.name}{suffix}",
        Trial,
        key,
        work,
        in_place=True,
        file=trial_folder.TRIAL,
        keep=_conclusive,
    )


def _conclusive(trial: Trial) -> bool:
    """A trial that ended, or that this engine can never do; a crash or a time-out is tried again."""
    return trial.failure is None or trial.failure.kind == "PrecisionError"


def _graph_hash(run: Run, graph: str) -> str:
    result = run.results[graph]
    assert isinstance(result, Slimmed | Quantized)
    return result.model.sha256


def _spec(run: Run, candidate: Candidate, tries: Tries, rebuild: int) -> TrialSpec:
    config, target = run.config, tries.target
    source = run.results[graph_name(candidate, tries)]
    assert isinstance(source, Slimmed | Quantized)
    cache: Artifact | None = None
    if candidate.precision == "implicit":
        cache = run.result("calibrate", Calibrated).cache
    measured = config.evaluation if config.evaluation.images is not None else None
    precision = resolved_precision(candidate.precision, target)
    return TrialSpec(
        candidate=candidate.model_copy(update={"precision": precision}),
        target_name=tries.name,
        target=target,
        model=source.model,
        cache=cache,
        frames=run.result("frames", KnownFrames).arrays,
        benchmark=None if tries.preview else config.benchmark.model_copy(update={"baseline": ()}),
        evaluation=measured,
        preprocess=config.preprocess,
        rebuild=rebuild,
    )


def _machine(run: Run, target: Target) -> Any:
    """What a trial's figures are bound to, here or on the device: a device is asked once in a run."""
    place = (target.host, target.python, target.remote_dir, target.engine, target.device, target.via)
    if place not in run.machines:
        run.machines[place] = targets.machine(target, run.progress)
    return run.machines[place]


@dataclass
class Tries:
    """The trials of one target."""

    name: str
    target: Target
    trials: list[tuple[Candidate, Trial, Path]] = field(default_factory=list)
    search: Searched | None = None
    preview: bool = False
    """TensorRT's Q/DQ graphs in onnxruntime on this machine: for their answers only, never timed or built twice."""

    @property
    def style(self) -> Style:
        """Whose Q/DQ placement the graphs have."""
        return "tensorrt" if self.preview else style_of(self.target)

    def folders(self) -> list[Path]:
        """The trials' directories, in the order they ran."""
        return [folder for _, _, folder in self.trials]


def try_candidates(
    run: Run, name: str, target: Target, plans: tuple[Candidate, ...], reference: Tries | None = None
) -> Tries:
    """Make each candidate's graph and try it on a target. A candidate that cannot be made or built fails alone."""
    tries = Tries(name, target)
    for candidate in plans:
        try_one(run, tries, candidate)
    if reference is not None:
        from edgeship.pipeline.search import called_for, search_target

        if run.config.candidates.search or called_for(run, tries, reference):
            tries.search = search_target(run, tries, reference)
    return tries


def try_one(run: Run, tries: Tries, candidate: Candidate) -> list[Path]:
    """One candidate's graph and its trials (as many builds as ``gate.rebuilds`` asks for)."""
    if candidate.precision not in ("fp32", "implicit"):
        stage = graph_stage(candidate, tries)
        try:
            execute_one(run, stage)
        except UserInputError:
            raise
        except EdgeshipError as error:
            folder = _record_failure(run, tries, candidate, error)
            return [folder]
    folders = []
    once = tries.preview or tries.name == REFERENCE
    for rebuild in range(1 if once else run.config.gate.rebuilds):
        trial, folder = execute_in(run, trial_stage(candidate, tries, rebuild))
        folders.append(folder)
        tries.trials.append((candidate, trial, folder))
    return folders


def require_decoded(reference: Tries) -> None:
    """Go on only where the reference's outputs could be decoded: afterwards, it is a candidate's fault if its cannot.

    Raises:
        OutputError: They could not: the decoder or the class names of the config are wrong.
    """
    for _, trial, _ in reference.trials:
        if trial.failure is not None and trial.failure.kind == OutputError.__name__:
            raise OutputError(trial.failure.message)


def _record_failure(run: Run, tries: Tries, candidate: Candidate, error: EdgeshipError) -> Path:
    """A candidate whose graph could not be made is a trial that failed before it began."""
    folder = run.folder / "stages" / f"failed-{tries.name}-{candidate.name}"
    trial = Trial(
        candidate=candidate,
        target_name=tries.name,
        engine=tries.target.engine,
        device=tries.target.device,
        failure=Failure(stage="quantize", kind=type(error).__name__, message=str(error)),
    )
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    trial_folder.write_trial(trial, folder)
    tries.trials.append((candidate, trial, folder))
    return folder
