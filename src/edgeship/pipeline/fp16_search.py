"""The search for the nodes that FP16 needs in FP32 where it converts well and still loses too much accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.config import is_tensorrt
from edgeship.decide import gate, loaded_trial, rulebook
from edgeship.decide.gate import Beside
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.search import SearchOptions, Tried, search
from edgeship.errors import QuantizeError
from edgeship.pipeline.candidates import FP32
from edgeship.pipeline.graphs import frames_of
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.release import release_of
from edgeship.pipeline.search import FRAMES, Tries, ensure, runs_here
from edgeship.pipeline.stages import Run, Stage, execute_one, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE
from edgeship.prepare import fp16_rescue, graph
from edgeship.prepare.inferred_graph import infer, select
from edgeship.prepare.sensitivity import RankOptions
from edgeship.results import Judged, Searched, Sensitivity
from edgeship.results.trial_folder import MODEL
from edgeship.targets import ranking


def search_fp16_if_needed(run: Run, trials: TargetTrials) -> None:
    """Search a target for the nodes that FP16 needs in FP32, where the config asks for searches and FP16 fails."""
    if run.config.candidates.search and trials.target.engine != "openvino":  # it computes all of a network in FP16
        trials.search = search_fp16(run, trials, run.result(REFERENCE))


def search_fp16(run: Run, trials: TargetTrials, reference: TargetTrials) -> Searched | None:
    """Search one target; the trials it makes are added to ``trials``. None where FP16 was not tried, or does not fail.

    For TensorRT each plan is first judged on this machine, by a graph that rounds as FP16 does. Where the target's
    engines cannot run here, that alone judges, plain FP16 too.
    """
    builds = {
        known.name: ensure(run, trials, known) for known, _, _ in tuple(trials.trials) if known.precision == "fp16"
    }
    if "fp16" not in builds:
        return None
    plain, base, ran = builds["fp16"], loaded_trial.load(reference.folders()[0]), runs_here(builds["fp16"])
    if ran and not _fails(run, base, list(builds.values())):
        return None
    previews = is_tensorrt(trials.target.engine)
    if not ran and not previews:
        return None
    tries = Tries(run, trials, base, plain)
    if ran:
        tried = tries.judge(plain)
    else:
        tried = Tried(tries.preview(plain[0].trial.candidate), ran=False)
        if not lost(tried.judged):
            return None
    high = ensure(run, trials, FP32)
    tries = Tries(run, trials, base, plain, high)
    keep = run.config.candidates.keep_fp32
    ranked = execute_one(run, _ranking_stage(keep))
    with tries.helped() as ahead:
        options = SearchOptions(
            precision="fp16",
            max_trials=run.config.candidates.max_trials,
            preview=tries.preview if previews else None,
            ahead=ahead,
            extra_keep=keep,
        )
        return search(ranked, tried, tries.judge(high), tries.attempt, options)


def _fails(run: Run, base: Measured, candidates: list[list[Measured]]) -> bool:
    """Whether every FP16 candidate is known to lose too much; one that more images could decide is not."""
    beside = Beside(release=release_of(run))
    for builds in candidates:
        failure = builds[0].trial.failure
        if failure is not None:
            if failure.kind != QuantizeError.__name__:
                return False
        elif not lost(gate.judge(run.config.gate, builds, base, beside=beside).judged[0]):
            return False
    return True


def lost(judged: Judged) -> bool:
    """Whether a drop, a critical class or the agreement with the reference is beyond its limit."""
    failed = (rulebook.of(rule.name) for rule in judged.rules if rule.outcome == "fail")
    return any(family.kind == "accuracy" and family.quantity in ("drop", "share") for family in failed)


def _ranking_stage(keep: tuple[str, ...]) -> Stage[Sensitivity]:
    """Rank nodes by what FP16 in each alone does, without building an engine; ``keep`` stay in FP32 in any case."""

    def key(run: Run) -> Any:
        return {"model": run.result(SLIM).model.sha256, "keep": keep, "versions": versions("onnxruntime")}

    def work(run: Run, _folder: Path) -> Sensitivity:
        reference = infer(graph.load_onnx(run.path(SLIM, MODEL)))
        kept, spread = select(reference, keep), ranking.over_workers(run.progress)
        options = RankOptions("fp16", keep=kept, frames=FRAMES, spread=spread)
        return fp16_rescue.ranked(reference, frames_of(run, FRAMES), options, run.progress)

    return Stage("rank:fp16", Sensitivity, key, work)
