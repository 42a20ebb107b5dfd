"""The verdict: a pure function of what was measured.

Every candidate is judged by every rule. The fastest one that passes all of them ships. A rule that was not measured,
or whose bound does not reach, is inconclusive and never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeship import metrics
from edgeship.config import Gate
from edgeship.decide import rules
from edgeship.decide.agreement import Answers, compare_answers, same_answers
from edgeship.decide.drops import Drop, Reference, check_paired, measure, unchanged
from edgeship.decide.loaded_trial import Measured
from edgeship.errors import UserInputError
from edgeship.results import Decision, Judged, Outcome, Rule, VerdictWord
from edgeship.text import nearest


def judge(gate: Gate, candidates: Sequence[Measured], reference: Measured) -> Decision:
    """Judge the candidates of one target.

    Args:
        gate: The rules.
        candidates: Every trial of one target; several builds of one candidate share its name and differ in
            ``rebuild``, and the worst of them counts.
        reference: The FP32 model, evaluated on the same images.

    Returns:
        SHIP with the fastest candidate that passes every rule; NO-SHIP when every candidate fails a rule;
        INCONCLUSIVE otherwise.

    Raises:
        UserInputError: No candidates, several targets at once, or a rule about a metric or class that is not there.
        DataError: Candidates and reference were evaluated on different images.
    """
    targets = sorted({item.trial.target_name for item in candidates})
    if len(targets) != 1:
        raise UserInputError(
            f"candidates of {len(targets)} targets ({', '.join(targets)})",
            expected="the candidates of one target",
            do="judge one target at a time",
        )
    context = _Context.of(gate, candidates, reference)
    groups: dict[str, list[Measured]] = {}
    for item in candidates:
        groups.setdefault(item.name, []).append(item)
    judged = [judge_one(context, builds) for builds in groups.values()]
    return _decide(context, judged, groups, targets[0])


@dataclass(frozen=True)
class _Context:
    """What all candidates are judged against."""

    gate: Gate
    base: Measured
    reference: Reference | None
    shown: tuple[str, ...]
    """What is measured of every candidate: metrics, and classes as ``recall/person``."""
    wanted: dict[str, tuple[str, float]]
    """Rule name → what it measures and its limit."""
    fp32: Measured | None
    missing: str
    """Why accuracy cannot be judged; empty when it can."""
    absent: frozenset[str] = frozenset()
    """Metrics of the task that no evaluation image holds an example for."""

    @classmethod
    def of(cls, gate: Gate, candidates: Sequence[Measured], reference: Measured) -> _Context:
        fp32 = next((item for item in candidates if _runs_fp32(item)), None)
        evaluation = reference.trial.evaluation
        if evaluation is None or not reference.records:
            failure = reference.trial.failure
            why = f"the reference failed: {failure.message}" if failure else "the reference was not evaluated"
            return cls(gate, reference, None, (), _unresolved(gate), fp32, why)
        paired = Reference(reference.records, gate.confidence, gate.resamples, evaluation.examples)
        task = metrics.task_of(reference.records)
        wrong = unknown_class_metric(gate, task)
        if wrong:
            raise UserInputError(wrong[0], do="mend the config's gate")
        class_metric = task.CLASS_METRIC if gate.critical_metric == "auto" else gate.critical_metric
        classes = [str(name) for name in reference.records.get("classes", ())]
        possible = task.metric_names(classes) or ()
        wanted = _resolve(gate, sorted(evaluation.metrics), possible, classes, class_metric)
        per_class = [f"{class_metric}/{name}" for name in evaluation.per_class.get(class_metric, {})]
        shown = dict.fromkeys([*evaluation.metrics, *per_class, *(what for what, _ in wanted.values())])
        absent = frozenset(possible) - evaluation.metrics.keys()
        return cls(gate, reference, paired, tuple(shown), wanted, fp32, "", absent)


def _runs_fp32(item: Measured) -> bool:
    return item.trial.candidate.precision == "fp32" and item.trial.latency is not None


def _unresolved(gate: Gate) -> dict[str, tuple[str, float]]:
    found = {f"max_drop.{name}": (name, limit) for name, limit in gate.max_drop.items()}
    return found | {f"critical.{name}": (name, limit) for name, limit in gate.critical.items()}


def unknown_names(gate: Gate, metric_names: Sequence[str] | None, classes: Sequence[str] | None) -> list[str]:
    """What the gate names that is not there, one sentence each with the nearest name; None: not known yet."""
    problems = []
    if metric_names is not None:
        for name in gate.max_drop:
            if name not in metric_names:
                problems.append(f"gate.max_drop.{name}: no such metric; {_nearest(name, metric_names)}")
    if classes is not None:
        for name in gate.critical:
            if name not in classes:
                problems.append(f"gate.critical.{name}: no such class; {_nearest(name, classes)}")
    return problems


def unknown_class_metric(gate: Gate, task: metrics.Task) -> list[str]:
    """Why the critical classes cannot be judged: their metric is none that the task measures of a class."""
    if not gate.critical:
        return []
    known = [metric for metric in task.CLASS_METRICS if metric in ("recall", "ap", "iou")]
    if not known:
        return ["gate.critical: a task of one's own measures nothing of a class; use gate.max_drop"]
    named = gate.critical_metric
    if named in ("auto", *known):
        return []
    return [f"gate.critical_metric: {named!r} is no metric of this task's classes; use {' or '.join(known)}"]


def _resolve(
    gate: Gate, known: Sequence[str], possible: Sequence[str], classes: Sequence[str], class_metric: str
) -> dict[str, tuple[str, float]]:
    """The accuracy rules by name. Every unknown metric and class is named at once.

    ``known`` were measured; ``possible`` are the task's own, some without an example here.
    """
    problems = unknown_names(gate, list(dict.fromkeys([*known, *possible])), classes)
    if problems:
        raise UserInputError("\n".join(problems), do="mend the names in the config's gate")
    found = {f"max_drop.{name}": (name, limit) for name, limit in gate.max_drop.items()}
    return found | {f"critical.{name}": (f"{class_metric}/{name}", limit) for name, limit in gate.critical.items()}


def _nearest(name: str, known: Sequence[str]) -> str:
    close = nearest(name, known)
    if close:
        return f"did you mean {close!r}?"
    return f"known here: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}" if known else "none is known here"


@dataclass
class _Findings:
    """What one build of a candidate showed."""

    rules: list[Rule]
    drops: dict[str, Drop] = field(default_factory=dict)
    answers: Answers | None = None

    @property
    def largest_drop(self) -> float:
        """Of all metrics and classes."""
        return max((drop.interval.estimate for drop in self.drops.values()), default=-math.inf)


def judge_one(context: _Context, builds: Sequence[Measured]) -> Judged:
    """Judge one candidate over all of its builds."""
    gate, first = context.gate, builds[0]
    each = [_judge_build(context, item) for item in builds]
    names = dict.fromkeys(rule.name for found in each for rule in found.rules)
    merged = [rules.worst([rule for found in each for rule in found.rules if rule.name == name]) for name in names]
    if gate.rebuilds > 1:
        merged.append(_rebuild_rule(gate, builds))
    worst = max(each, key=lambda found: found.largest_drop)
    return Judged(
        candidate=first.name,
        target_name=first.trial.target_name,
        outcome=_outcome(merged),
        rules=tuple(merged),
        **_shown(worst.drops),
        agreement=worst.answers.share if worst.answers else None,
        score_shift=worst.answers.score_shift if worst.answers else None,
        speedup=_speedup(gate, builds, context.fp32),
    )


def _judge_build(context: _Context, item: Measured) -> _Findings:
    gate, trial = context.gate, item.trial
    if trial.failure is not None:
        reason = f"{trial.failure.stage} failed: {trial.failure.message}"
        return _Findings([Rule(name="trial", outcome="fail", measured=None, limit=None, reason=reason)])
    found = _Findings([rules.audit_rule(gate, item)])
    if trial.build is not None and not trial.build.runnable:
        why = trial.build.reason or "no GPU here"
        found.rules.append(rules.unmeasured("run", None, f"built and audited, not run: {why}"))
    found.rules += rules.latency_rules(gate, item)
    if gate.speedup_over_fp32 is not None:
        found.rules.append(rules.speedup_rule(gate, item, context.fp32))
    if gate.throughput_min is not None:
        found.rules.append(rules.throughput_rule(gate, item))
    _accuracy(context, item, found)
    found.rules += rules.size_rules(gate, item)
    if not _has_rules(gate):
        found.rules.append(rules.unmeasured("gate", None, "the config sets no rule, so nothing was decided"))
    return found


def _has_rules(gate: Gate) -> bool:
    single = (
        gate.latency_p50_ms,
        gate.latency_p90_ms,
        gate.latency_p99_ms,
        gate.speedup_over_fp32,
        gate.throughput_min,
        gate.min_agreement,
        gate.max_engine_mib,
        gate.max_memory_mib,
    )
    return bool(gate.max_drop or gate.critical or any(value is not None for value in single))


def _accuracy(context: _Context, item: Measured, found: _Findings) -> None:
    """Add the drops, the agreement, and their rules."""
    gate, reference = context.gate, context.reference
    why = context.missing
    if not why and (item.trial.evaluation is None or not item.records):
        why = "the candidate was not evaluated"
    if why or reference is None:
        found.rules += [rules.unmeasured(name, limit, why) for name, (_, limit) in context.wanted.items()]
        if gate.min_agreement is not None:
            found.rules.append(rules.unmeasured("min_agreement", gate.min_agreement, why))
        return
    check_paired(reference.records, item.records, item.name)
    exact = frozenset(what for what, _ in context.wanted.values())
    if gate.confidence > 0 and item.is_same_as(context.base):
        found.drops = unchanged(reference, context.shown)
        found.answers = same_answers(reference)
    else:
        found.drops = measure(reference, item.records, context.shown, exact)
        found.answers = compare_answers(reference, item.records)
    for name, (what, limit) in context.wanted.items():
        class_name = what.partition("/")[2]
        if class_name and not reference.examples.get(class_name):
            why = f"the evaluation images hold no example of {class_name!r}; add some"
            found.rules.append(rules.unmeasured(name, limit, why))
        elif what in context.absent:
            why = f"the evaluation images hold no example that {what} counts; add some"
            found.rules.append(rules.unmeasured(name, limit, why))
        else:
            found.rules.append(rules.drop_rule(gate, name, limit, found.drops.get(what), reference.images))
    if gate.min_agreement is not None:
        found.rules.append(rules.agreement_rule(gate, found.answers))


def _rebuild_rule(gate: Gate, builds: Sequence[Measured]) -> Rule:
    """Whether all builds that were asked for are there, and how far they are apart."""
    limit = float(gate.rebuilds)
    if len(builds) < gate.rebuilds:
        return rules.unmeasured("rebuilds", limit, f"{len(builds)} of {gate.rebuilds} builds were tried")
    medians = [found.p50 for item in builds if (found := rules.quantiles_of(gate, item)) is not None]
    parts = []
    if medians:
        parts.append(f"medians {min(medians):.3g} to {max(medians):.3g} ms")
    spread = output_spread(builds)
    if spread is not None:
        parts.append(f"outputs differ by at most {spread:.3g}")
    reason = f"{len(builds)} builds, the worst counts: {', '.join(parts) or 'nothing was run'}"
    return Rule(name="rebuilds", outcome="pass", measured=float(len(builds)), limit=limit, reason=reason)


def output_spread(builds: Sequence[Measured]) -> float | None:
    """Largest absolute difference between the outputs of several builds for the known frames; None: not recorded."""
    with_outputs = [item.outputs for item in builds if item.outputs]
    if len(with_outputs) < 2:
        return None
    first = with_outputs[0]
    gaps = [
        float(np.abs(np.asarray(other[name], np.float64) - np.asarray(first[name], np.float64)).max(initial=0.0))
        for other in with_outputs[1:]
        for name in first
        if name in other and other[name].shape == first[name].shape
    ]
    return max(gaps, default=None)


def _outcome(found: Iterable[Rule]) -> Outcome:
    outcomes = {rule.outcome for rule in found}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def _shown(drops: dict[str, Drop]) -> dict[str, dict[str, object]]:
    """The fields of Judged about drops: of metrics, and of classes by metric."""
    drop: dict[str, object] = {}
    interval: dict[str, object] = {}
    class_drop: dict[str, dict[str, float]] = {}
    class_interval: dict[str, dict[str, tuple[float, float]]] = {}
    for name, found in drops.items():
        bounds = (found.interval.lower, found.interval.upper)
        metric, _, class_name = name.partition("/")
        known = all(math.isfinite(value) for value in bounds)
        if class_name:
            class_drop.setdefault(metric, {})[class_name] = found.interval.estimate
            if known:
                class_interval.setdefault(metric, {})[class_name] = bounds
        else:
            drop[name] = found.interval.estimate
            if known:
                interval[name] = bounds
    return {
        "drop": drop,
        "drop_interval": interval,
        "class_drop": dict(class_drop),
        "class_drop_interval": dict(class_interval),
    }


def _slowest(gate: Gate, builds: Sequence[Measured]) -> float:
    """Median of the slowest build; infinite where none was measured."""
    medians = [found.p50 for item in builds if (found := rules.quantiles_of(gate, item)) is not None]
    return max(medians, default=math.inf)


def _speedup(gate: Gate, builds: Sequence[Measured], fp32: Measured | None) -> float | None:
    ours = _slowest(gate, builds)
    theirs = _slowest(gate, [fp32]) if fp32 else math.inf
    return theirs / ours if math.isfinite(ours) and math.isfinite(theirs) and ours > 0 else None


def _decide(context: _Context, judged: Sequence[Judged], groups: dict[str, list[Measured]], target: str) -> Decision:
    gate = context.gate
    medians = {name: _slowest(gate, builds) for name, builds in groups.items()}
    passing = sorted((item for item in judged if item.outcome == "pass"), key=lambda item: medians[item.candidate])
    open_ = [item for item in judged if item.outcome == "inconclusive"]
    verdict: VerdictWord = "SHIP" if passing else "INCONCLUSIVE" if open_ else "NO-SHIP"
    chosen = passing[0] if passing else None
    if chosen is not None:
        time = medians[chosen.candidate]
        speed = f", {chosen.speedup:.2f} times as fast as fp32" if chosen.speedup and chosen.speedup != 1 else ""
        sentence = f"{chosen.candidate} passes every rule"
        if math.isfinite(time):
            sentence += f" at a median of {time:.3g} ms{speed}"
        faster = [item for item in open_ if medians[item.candidate] < time]
        if faster:
            sentence += f"; {faster[0].candidate} is faster, but undecided: {faster[0].reasons[0]}"
        sentence += _no_gain(chosen, judged, groups, medians)
    elif open_:
        nearest = min(open_, key=lambda item: (len(item.reasons), medians[item.candidate]))
        sentence = f"nothing passes yet; {nearest.candidate} is undecided: {nearest.reasons[0]}"
    else:
        sentence = "nothing passes: " + "; ".join(f"{item.candidate}: {_failing(item)}" for item in judged)
    if gate.confidence == 0:
        sentence += " (statistics are off: confidence = 0)"
    name = chosen.candidate if chosen else None
    return Decision(verdict=verdict, chosen=name, target_name=target, sentence=sentence + ".", judged=tuple(judged))


def _no_gain(
    chosen: Judged, judged: Sequence[Judged], groups: dict[str, list[Measured]], medians: dict[str, float]
) -> str:
    """That INT8 is slower than the high precision that ships, where all of it is; empty where it is not."""
    if groups[chosen.candidate][0].trial.candidate.precision not in ("fp32", "fp16"):
        return ""
    quantized = [
        item
        for item in judged
        if groups[item.candidate][0].trial.candidate.precision not in ("fp32", "fp16")
        and math.isfinite(medians[item.candidate])
    ]
    best = min(quantized, key=lambda item: medians[item.candidate], default=None)
    if best is None or medians[best.candidate] <= medians[chosen.candidate]:
        return ""
    times = medians[best.candidate], medians[chosen.candidate]
    audit = groups[best.candidate][0].trial.audit
    hottest = audit.hottest if audit is not None else ()
    return "; " + rules.slower_sentence(best.candidate, best.rules, times, chosen.candidate, hottest)


def _failing(item: Judged) -> str:
    return next(rule.reason for rule in item.rules if rule.outcome == "fail")
