"""Trials: the stage that tries a candidate on a target, and the reference that all are compared with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgeship import targets
from edgeship.config import Config, Target
from edgeship.engines.onnx_file import weights_are_half
from edgeship.errors import (
    DeviceError,
    EdgeshipError,
    InconsistentError,
    ModelError,
    OutputError,
    QuantizeError,
    StageError,
    UserInputError,
)
from edgeship.files import storage_errors
from edgeship.pipeline.autotune import autotune_stage
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.candidates import (
    FP32,
    candidates,
    converted,
    may_be_tuned,
    rescued,
    resolved_precision,
    sized,
    tuned,
    with_reduced_range,
)
from edgeship.pipeline.frames import evaluation_code, evaluation_hash
from edgeship.pipeline.graphs import graph_stage, quantize_stage
from edgeship.pipeline.machines import machine_of
from edgeship.pipeline.origins import repair_stage
from edgeship.pipeline.prepare import FRAMES, SLIM
from edgeship.pipeline.stages import Run, Stage, Step, execute_in, execute_one
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.results import Budget, Candidate, Failure, Quantized, Trial, TrialSpec, trial_folder
from edgeship.results.seal import seal
from edgeship.results.trial_folder import MODEL
from edgeship.trial.energy import measures_energy

REFERENCE_NAME = "reference"


def reference_target(config: Config) -> tuple[str, Target]:
    """Where the FP32 reference runs: a target that is onnxruntime here, else onnxruntime on this CPU."""
    targets = config.all_targets()
    for name, target in targets.items():
        if target.engine == "onnxruntime" and target.host is None:
            return name, target
    return REFERENCE_NAME, on_this_cpu(next(iter(targets.values())))


def on_this_cpu(target: Target) -> Target:
    """onnxruntime on this machine's processor, for a target's batches and shapes."""
    return Target(engine="onnxruntime", device="cpu", batch=target.batch, shapes=target.shapes)


def trial_stage(candidate: Candidate, trials: TargetTrials, rebuild: int = 0) -> Stage[Trial]:
    """The stage that builds, audits, benchmarks and evaluates a candidate on a target."""
    target, graph = trials.target, graph_stage(candidate, trials)

    def key(run: Run) -> Any:
        return {
            "model": run.result(graph).model.sha256,
            "cache": run.result(CALIBRATE).cache.sha256 if candidate.precision == "implicit" else None,
            "spec": _spec(run, candidate, trials, rebuild).without_rules(),
            "images": evaluation_hash(run),
            "plugins": [run.hasher.file(path) for path in target.plugins if path.is_file()],
            "code": evaluation_code(run),
            "machine": machine_of(run, target),
        }

    def keep(run: Run, trial: Trial) -> str:
        return _failed(trial) or _spec(run, candidate, trials, rebuild).unanswered(trial)

    def work(run: Run, folder: Path) -> Trial:
        lay_out(run, candidate, trials, rebuild, folder)
        if target.host is not None:
            trial_folder.forget_marked(folder)
        if trials.helpers is not None:
            return trials.helpers.run(candidate.name, folder, run.progress)
        return targets.run(target, folder, run.progress, timeout_s=run.config.candidates.timeout_s)

    suffix = f"#{rebuild}" if rebuild else ""
    return Stage(
        f"trial:{trials.name}:{candidate.name}{suffix}",
        Trial,
        key,
        work,
        in_place=True,
        file=trial_folder.TRIAL,
        keep=keep,
    )


def lay_out(run: Run, candidate: Candidate, trials: TargetTrials, rebuild: int, folder: Path) -> None:
    """Write what a trial needs into its folder; the candidate's graph is made."""
    spec, graph = _spec(run, candidate, trials, rebuild), graph_stage(candidate, trials)
    with storage_errors(folder):
        shutil.copyfile(run.path(graph, MODEL), folder / MODEL)
        if (weights := run.path(graph, f"{MODEL}.data")).is_file():  # a graph beyond 2 GiB keeps them apart
            shutil.copyfile(weights, folder / weights.name)
        if spec.cache is not None:
            shutil.copyfile(run.path(CALIBRATE, spec.cache.path), folder / spec.cache.path)
        if spec.frames is not None:
            shutil.copyfile(run.path(FRAMES, spec.frames.path), folder / spec.frames.path)
    trial_folder.write_spec(spec, folder)


def _failed(trial: Trial) -> str:
    """That a trial is tried again: it did not end, in other ways than by what this engine can never do."""
    if trial.failure is None or trial.failure.kind == "PrecisionError":
        return ""
    return f"it failed in {trial.failure.stage} ({trial.failure.kind})"


def _spec(run: Run, candidate: Candidate, trials: TargetTrials, rebuild: int) -> TrialSpec:
    config, target = run.config, trials.target
    measured = config.evaluation if config.evaluation.images is not None else None
    half = candidate.precision == "as-given" and weights_are_half(run.path(SLIM, MODEL))
    precision = resolved_precision(candidate.precision, target, half=half)
    if trials.preview and precision == "fp16":
        precision = "fp32"  # what its graph is written in
    return TrialSpec(
        candidate=candidate.model_copy(update={"precision": precision}),
        target_name=trials.name,
        target=sized(target, run.result(SLIM).inputs, config.preprocess),
        model=run.result(graph_stage(candidate, trials)).model,
        cache=run.result(CALIBRATE).cache if candidate.precision == "implicit" else None,
        frames=run.result(FRAMES).arrays,
        benchmark=None if trials.preview else config.benchmark.model_copy(update={"baseline": ()}),
        gated=config.gate.quantiles(),
        budget=Budget() if trials.preview or trials.name == REFERENCE_NAME else _budget(config),
        evaluation=measured,
        preprocess=config.preprocess,
        rebuild=rebuild,
    )


def _budget(config: Config) -> Budget:
    """What the rules ask of a frame besides latency."""
    gate = config.gate
    return Budget(
        frame=gate.frame_p99_ms is not None or gate.fps is not None,
        fps=gate.fps,
        starts=gate.load_ms is not None,
        energy=measures_energy(gate),
    )


def try_candidates(run: Run, trials: TargetTrials) -> None:
    """Try the config's candidates on a target. One that cannot be made or built fails alone."""
    for candidate in candidates(run.config):
        try_with_variants(run, trials, candidate)


def try_with_variants(run: Run, trials: TargetTrials, candidate: Candidate) -> None:
    """One candidate, and what its trial calls for beside it.

    INT8 with weights of 7 bits, where the target's processor saturates; FP16 with the nodes in FP32 that rescue it;
    INT8 with what autotune leaves in float. None depends on what was evaluated.
    """
    try_one(run, trials, candidate)
    own = [made for tried, made, *_ in trials.trials if tried.name == candidate.name]
    trial = next((made for made in own if made.build is not None), own[-1])
    bound = trial.build.identity if trial.build is not None else None
    variants = (
        with_reduced_range(run.config, candidate, trials.target, bound),
        rescued(candidate, _rescue(run, trials, candidate, trial)),
        _tuned(run, trials, candidate),
    )
    for variant in variants:
        if variant is not None:
            try_one(run, trials, variant)


def _tuned(run: Run, trials: TargetTrials, candidate: Candidate) -> Candidate | None:
    """The candidate whose placement ModelOpt's autotune chose; one that it could not choose is a failed trial."""
    if not may_be_tuned(run.config, candidate, trials.target):
        return None
    try:
        found, _ = execute_in(run, autotune_stage(trials))
    except UserInputError:
        raise
    except EdgeshipError as error:
        name = f"{candidate.name}-autotune"
        _record_failure(run, trials, candidate.model_copy(update={"name": name}), error)
        return None
    return tuned(candidate, found.keep, found.products)


def _rescue(run: Run, trials: TargetTrials, candidate: Candidate, trial: Trial) -> tuple[str, ...]:
    """The nodes that FP16 needs in FP32, as its conversion found them."""
    if trial.failure is not None and trial.failure.kind == QuantizeError.__name__:
        return trial.failure.rescue
    made = run.results.get(quantize_stage(candidate, trials).name)
    return made.rescue if isinstance(made, Quantized) else ()


def try_one(run: Run, trials: TargetTrials, candidate: Candidate) -> list[Path]:
    """One candidate's graph and its trials (as many builds as ``gate.rebuilds`` asks for): the trials' folders."""
    if converted(candidate):
        try:
            make_candidate(run, trials, candidate)
        except UserInputError:
            raise
        except EdgeshipError as error:
            return [_record_failure(run, trials, candidate, error)]
    folders = []
    once = trials.preview or trials.name == REFERENCE_NAME
    for rebuild in range(1 if once else run.config.gate.rebuilds):
        trial, folder = execute_in(run, trial_stage(candidate, trials, rebuild))
        require_device(run, trials.target, trial)
        folders.append(folder)
        trials.trials.append((candidate, trial, folder))
    return folders


def make_candidate(run: Run, trials: TargetTrials, candidate: Candidate) -> None:
    """Make a candidate's graph. Raises QuantizeError where it loses too much, and what else stops it."""
    if candidate.repair:
        execute_one(run, repair_stage(candidate, trials))
    execute_one(run, quantize_stage(candidate, trials))


def require_device(run: Run, target: Target, trial: Trial) -> None:
    """Stop where a trial failed because its device is not there: that says nothing about the candidate.

    Raises:
        DeviceError: The target could not say what its device is either.
    """
    if trial.failure is None or trial.failure.kind != DeviceError.__name__:
        return
    told = machine_of(run, target)
    identity = told.get("reason", told.get("identity"))
    if isinstance(identity, str):
        raise DeviceError(identity, do=f"fix device = {target.device!r} of the target {trial.target_name!r}")


def _record_failure(run: Run, trials: TargetTrials, candidate: Candidate, error: EdgeshipError) -> Path:
    """A candidate whose graph could not be made is a trial that failed before it began."""
    folder = run.folder / "stages" / f"failed-{trials.name}-{candidate.name}"
    trial = Trial(
        candidate=candidate,
        target_name=trials.name,
        engine=trials.target.engine,
        device=trials.target.device,
        failure=Failure(
            stage="quantize",
            kind=type(error).__name__,
            message=str(error),
            rescue=error.rescue if isinstance(error, QuantizeError) else (),
        ),
    )
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    trial_folder.write_trial(trial, folder)
    seal(folder, f"trial:{trials.name}:{candidate.name}", 0.0)
    trials.trials.append((candidate, trial, folder))
    return folder


def try_reference(run: Run) -> TargetTrials:
    """The trial of fp32 that every candidate is compared with. Raises as :func:`require_measured` does."""
    reference = TargetTrials(*reference_target(run.config))
    try_one(run, reference, FP32)
    require_measured(reference)
    return reference


def require_measured(reference: TargetTrials) -> None:
    """Go on only where the reference was measured: without it there is nothing to judge a candidate by.

    Raises:
        OutputError: Its outputs could not be decoded: the decoder or the class names of the config are wrong.
            Afterwards, it is a candidate's fault if its cannot.
        ModelError: Its answers depend on more than the frame: so does every candidate's.
        StageError: Anything else ended its trial.
    """
    for _, trial, folder in reference.trials:
        failure = trial.failure
        if failure is None:
            continue
        if failure.kind == OutputError.__name__:
            raise OutputError(failure.message)
        if failure.kind == InconsistentError.__name__:
            raise ModelError(f"the model itself, fp32 on {trial.engine}: {failure.message}")
        raise StageError(
            f"the reference, fp32 on {trial.engine} ({trial.device}), could not be measured: {failure.stage} failed: "
            f"{failure.message}",
            do=f"fix that and run ship again; what the trial left is in {folder}",
        )


REFERENCE = Step("reference", try_reference)
