"""The search for a mixed-precision engine, wired to stages: every graph and trial of it is kept and reused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from edgeship.decide import gate, loaded_trial, rulebook
from edgeship.decide.builds import slowest
from edgeship.decide.gate import Beside
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.search import Ahead, SearchOptions, Tried, search
from edgeship.decide.sequence import Spending
from edgeship.errors import QuantizeError
from edgeship.pipeline.candidates import FP32, candidates, converted
from edgeship.pipeline.frames import evaluation_code
from edgeship.pipeline.graphs import PREVIEW, frames_of
from edgeship.pipeline.origins import graph_of, ranges_stage, repair_stage
from edgeship.pipeline.release import release_of
from edgeship.pipeline.stages import Run, Stage, execute_one, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE, lay_out, make_candidate, on_this_cpu, try_one, try_with_variants
from edgeship.prepare import calibration_cache, sensitivity
from edgeship.prepare.compare import Snr
from edgeship.prepare.quantized_tensors import Style
from edgeship.results import Candidate, Judged, Repaired, Searched, Sensitivity, common_clock
from edgeship.targets import ranking
from edgeship.targets.helpers import helping

FRAMES = 8
"""Real frames that the ranking runs on."""


def called_for(run: Run, trials: TargetTrials, reference: TargetTrials) -> bool:
    """Whether a search is needed though none was asked for: INT8 loses too much and what is more precise is too slow.

    Only what is known to fail counts: a rule that more images could decide is not a reason to search. An INT8 graph
    that was refused for its noise is known to.
    """
    if not any(candidate.precision.startswith("int8") for candidate, _, _ in trials.trials):
        return False
    base = loaded_trial.load(reference.folders()[0])
    builds = [loaded_trial.load(folder) for folder in trials.folders()]
    decision = gate.judge(run.config.gate, builds, base, beside=Beside(release=release_of(run)))
    if any(item.outcome == "pass" for item in decision.judged):
        return False
    low = {candidate.name for candidate, _, _ in trials.trials if candidate.precision.startswith("int8")}
    broken = [(item.candidate in low, rulebook.of(rule.name)) for item in decision.judged for rule in item.rules
              if rule.outcome == "fail"]  # fmt: skip
    loses = any(is_low and family.quantity == "drop" for is_low, family in broken) or any(
        trial.failure is not None
        and trial.failure.kind == QuantizeError.__name__
        and candidate.name in low
        and not (candidate.repair or candidate.trained)  # they fail where they do not help
        for candidate, trial, _ in trials.trials
    )
    return loses and any(not is_low and family.kind == "speed" for is_low, family in broken)


def search_if_needed(run: Run, trials: TargetTrials) -> None:
    """Search a target for a mixed-precision engine where the config asks for it or the trials call for it."""
    reference = run.result(REFERENCE)
    if run.config.candidates.search or called_for(run, trials, reference):
        found = search_target(run, trials, reference)
        trials.search = trials.search if found is None else found.model_copy(update={"half": trials.search})


def search_target(run: Run, trials: TargetTrials, reference: TargetTrials, *, fallback: bool = True) -> Searched | None:
    """Search one target; the trials it makes are added to ``trials``. None when its engines cannot run here at all.

    Plans begin from plain INT8, or from the repaired one that is nearest to FP32 where there is one.

    ``fallback``: whether to stop where plain INT8 is slower than high precision (see ``SearchOptions``).

    TensorRT candidates are first judged by their Q/DQ graph in onnxruntime on this machine, so that only those that
    keep the accuracy are built on the target.
    """
    style = trials.style
    begin = _begin(run, trials)
    plain = ensure(run, trials, begin)
    if not runs_here(plain):
        return None
    high = ensure(run, trials, FP32) if style == "onnxruntime" else _half(run, trials)
    tries = Tries(run, trials, loaded_trial.load(reference.folders()[0]), plain, high)
    ranked = execute_one(run, ranking_stage(begin, trials))
    with tries.helped() as ahead:
        options = SearchOptions(
            precision="int8",
            max_trials=run.config.candidates.max_trials,
            preview=None if style == "onnxruntime" else tries.preview,
            ahead=ahead,
            fallback=fallback,
            extra_keep=run.config.quantization.keep,
            repair=begin.repair,
        )
        return search(ranked, tries.judge(plain), tries.judge(high), tries.attempt, options)


def _begin(run: Run, trials: TargetTrials) -> Candidate:
    """Plain INT8, or of the repairs that were tried the one whose INT8 is nearest to FP32."""
    found: dict[float, Candidate] = {}
    for candidate in candidates(run.config):
        repaired = run.results.get(repair_stage(candidate, trials).name) if candidate.repair else None
        if isinstance(repaired, Repaired) and repaired.improved:
            found.setdefault(repaired.after_db, candidate)
    if found:
        return found[max(found)]
    return Candidate(name="int8", precision="int8", keep=run.config.quantization.keep)


def _half(run: Run, trials: TargetTrials) -> list[Measured]:
    """FP16, or the nearest to it that its own search or its conversion found where FP16 alone fails."""
    found = trials.search.chosen if trials.search is not None else None
    named = next((known for known, _, _ in trials.trials if known.name == found and known.precision == "fp16"), None)
    if named is not None:
        return ensure(run, trials, named)
    half = Candidate(name="fp16", precision="fp16", keep=run.config.candidates.keep_fp32)
    high = ensure(run, trials, half)
    if high[0].trial.failure is not None and any(item.name == "fp16-keep" for item, _, _ in trials.trials):
        return ensure(run, trials, half.model_copy(update={"name": "fp16-keep"}))
    return high


class Tries:
    """Makes, tries and judges the plans of one search on one target.

    Args:
        base: The reference.
        known: The trials of candidates that the search did not make: the plain one, and that in high precision.
    """

    def __init__(self, run: Run, trials: TargetTrials, base: Measured, *known: list[Measured]) -> None:
        self._run, self._trials, self._base = run, trials, base
        self._known = frozenset(builds[0].name for builds in known)
        self._context = _fp32(trials)
        latencies = [item.trial.latency for builds in (self._context, *known) for item in builds]
        self._clock = common_clock(latencies, run.config.gate.clock)
        self._previews: dict[str, Measured] = {}
        self._previewing = TargetTrials(PREVIEW, on_this_cpu(trials.target), preview=True)

    def judge(self, builds: list[Measured]) -> Tried:
        """A candidate by the gate, with its slowest build's median."""
        first, trial = builds[0], builds[0].trial
        others = [item for item in self._context if item.name != first.name]
        beside = Beside(release=release_of(self._run))
        spending = self._spending(first.name)
        decision = gate.judge(self._run.config.gate, [*others, *builds], self._base, spending, beside)
        judged = next(item for item in decision.judged if item.candidate == first.name)
        median = slowest(self._clock, builds)
        seen = self._previews.get(trial.candidate.name)
        return Tried(
            judged,
            median if math.isfinite(median) else None,
            trial.candidate.keep,
            trial.audit.hottest if trial.audit is not None else (),
            preview_db(seen, first) if seen is not None else None,
            runs_here(builds),
        )

    def attempt(self, candidate: Candidate) -> Tried:
        """Build a candidate on the target, try it, and judge it."""
        return self.judge([loaded_trial.load(folder) for folder in try_one(self._run, self._trials, candidate)])

    def preview(self, candidate: Candidate) -> Judged:
        """The accuracy of a candidate's graph on this machine."""
        judged, self._previews[candidate.name] = preview_of(
            self._run, self._previewing, self._base, candidate, self._spending(candidate.name)
        )
        return judged

    @contextmanager
    def helped(self) -> Iterator[Ahead | None]:
        """What begins previews ahead on workers of the fleet that compute as this machine does; None: there is none.

        Where the evaluation runs the user's own code, nothing is begun: a worker's may be another one.
        """
        run = self._run
        if evaluation_code(run):
            yield None
            return
        with helping(run.progress, run.config.candidates.timeout_s) as helpers:
            self._previewing.helpers = helpers
            yield partial(_begin_ahead, run, self._previewing) if helpers is not None else None
            self._previewing.helpers = None

    def _spending(self, name: str) -> Spending:
        return Spending(0, frozenset([name]) - self._known, self._run.config.candidates.search)


def _begin_ahead(run: Run, previewing: TargetTrials, plans: Sequence[Candidate]) -> None:
    """Let helpers try the plans after the first, which this machine tries."""

    def lay(candidate: Candidate, folder: Path) -> None:
        if converted(candidate):
            make_candidate(run, previewing, candidate)
        lay_out(run, candidate, previewing, 0, folder)

    assert previewing.helpers is not None
    for plan in plans[1:]:
        previewing.helpers.begin(plan.name, partial(lay, _previewed(plan)))


def _previewed(candidate: Candidate) -> Candidate:
    """A candidate as its preview tries it."""
    return candidate if candidate.precision == "fp16" else candidate.model_copy(update={"precision": "int8-fp32"})


def runs_here(builds: list[Measured]) -> bool:
    """Whether a candidate's engine can run where it was built; one that was not built says nothing against it."""
    built = builds[0].trial.build
    return built is None or built.runnable


def ensure(run: Run, trials: TargetTrials, candidate: Candidate) -> list[Measured]:
    """The trials of a candidate, made now if the config did not ask for it."""
    if not any(known.name == candidate.name for known, _, _ in trials.trials):
        try_with_variants(run, trials, candidate)
    return [loaded_trial.load(folder) for known, _, folder in trials.trials if known.name == candidate.name]


def _fp32(trials: TargetTrials) -> list[Measured]:
    """The fp32 trials of the target: speed-ups are counted from them."""
    return [loaded_trial.load(folder) for candidate, _, folder in trials.trials if candidate.precision == "fp32"]


def ranking_stage(candidate: Candidate, trials: TargetTrials) -> Stage[Sensitivity]:
    """Rank groups of nodes of a candidate by the damage of their quantization, without building an engine."""
    style: Style = trials.style
    source = ranges_stage(candidate, trials)

    def key(run: Run) -> Any:
        return {
            "model": graph_of(run, candidate, trials)[1],
            "cache": run.result(source).cache.sha256,
            "keep": run.config.quantization.keep,
            "style": style,
            "per_channel": run.config.quantization.per_channel,
            "versions": versions("onnxruntime"),
        }

    def work(run: Run, folder: Path) -> Sensitivity:
        cache = run.path(source, run.result(source).cache.path)
        loaded = calibration_cache.load(cache, calibration_cache.Expected(), trust=True)
        options = sensitivity.RankOptions(
            style=style,
            per_channel=run.config.quantization.per_channel,
            keep=run.config.quantization.keep,
            frames=FRAMES,
            spread=ranking.over_workers(run.progress),
        )
        return sensitivity.rank(
            graph_of(run, candidate, trials)[0], loaded, frames_of(run, FRAMES), options, run.progress
        )

    return Stage(":".join(["rank", style, *candidate.repair]), Sensitivity, key, work)


def preview_db(preview: Measured, built: Measured) -> float | None:
    """Signal-to-noise of the target's outputs for the known frames against the preview's, in dB, of the worst output.

    None where one of them has no outputs, or none of the same shape.
    """
    found = []
    for name, wanted in preview.outputs.items():
        if name in built.outputs and built.outputs[name].shape == wanted.shape:
            noise = Snr()
            noise.add(wanted, built.outputs[name])
            found.append(noise.db)
    return min(found, default=None)


def preview_of(
    run: Run, previewing: TargetTrials, base: Measured, candidate: Candidate, spending: Spending
) -> tuple[Judged, Measured]:
    """Judge the accuracy of a candidate's graph for TensorRT in onnxruntime, without building for the target.

    INT8 by its Q/DQ graph, FP16 by one that rounds as FP16 does. The batches are the target's, so that the outputs for
    the known frames can be compared with the built engine's.
    """
    folder = try_one(run, previewing, _previewed(candidate))[0]
    rules = rulebook.without(run.config.gate, "speed", "size", "precision")
    found = loaded_trial.load(folder)
    beside = Beside(release=release_of(run))
    return gate.judge(rules, [found], base, spending, beside).judged[0], found
