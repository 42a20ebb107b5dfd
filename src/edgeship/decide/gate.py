"""The verdict: a pure function of what was measured.

Every candidate is judged by every rule. The fastest one that passes all of them ships. A rule that was not measured,
or whose bound does not reach, is inconclusive and never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeship import metrics
from edgeship.config import LOW_CONFIDENCE, Gate
from edgeship.decide import rulebook, several
from edgeship.decide.agreement import compare_answers, same_answers
from edgeship.decide.builds import medians_of, output_spread, slowest
from edgeship.decide.case import Case, Wanted
from edgeship.decide.doubts import EXAMPLES, doubts, unlike
from edgeship.decide.drops import IDENTICAL_TO_RELEASE, Drop, Reference, check_paired, measure, unchanged
from edgeship.decide.floors import level
from edgeship.decide.limits import refuse_direction, refuse_percents, unknown_class_metric, unknown_names
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.neighbours import by_neighbours
from edgeship.decide.paired_times import paired_speedup
from edgeship.decide.released import require_pairable
from edgeship.decide.remarks import remarks
from edgeship.decide.sentences import Told, sentence
from edgeship.decide.sequence import Spending, in_sequence, tested
from edgeship.errors import UserInputError
from edgeship.results import Clock, Decision, Judged, Rule, Turns, VerdictWord, common_clock


@dataclass(frozen=True)
class Beside:
    """What else the trials of a target are judged with.

    Args:
        turns: Candidates timed turn by turn: they say which is the fastest, and the speed-up over fp32.
        release: The release in the field, evaluated on the same images; where ``gate.baseline`` names one and it is
            None, the rules against it are inconclusive.
    """

    turns: Turns | None = None
    release: Measured | None = None


ALONE = Beside()


def judge(
    gate: Gate,
    candidates: Sequence[Measured],
    reference: Measured,
    spending: Spending | None = None,
    beside: Beside = ALONE,
) -> Decision:
    """Judge the candidates of one target.

    Args:
        gate: The rules.
        candidates: Every trial of one target; several builds of one candidate share its name and differ in
            ``rebuild``, and the worst of them counts.
        reference: The FP32 model, evaluated on the same images.
        spending: Earlier attempts at the same model, and the candidates of a search; None: this is the only one.
        beside: Turns that candidates took, and the release in the field.

    Returns:
        SHIP with the fastest candidate that passes every rule; NO-SHIP when every candidate fails a rule;
        INCONCLUSIVE otherwise.

    Raises:
        UserInputError: No candidates, several targets at once, or a rule about a metric or class that is not there.
        DataError: Candidates, reference and release were evaluated on different images.
    """
    targets = sorted({item.trial.target_name for item in candidates})
    if len(targets) != 1:
        raise UserInputError(
            f"candidates of {len(targets)} targets ({', '.join(targets)})",
            expected="the candidates of one target",
            do="judge one target at a time",
        )
    spending = spending or Spending()
    tasks = several.tasks_of(reference)
    if tasks != ("",) and (wrong := several.unnamed(gate, tasks)):
        raise UserInputError("\n".join(wrong), do="correct the names in the config's gate")
    contexts = {task: _context(gate, candidates, reference, (spending, beside), task) for task in tasks}
    context = _over_all(gate, reference, contexts)
    groups: dict[str, list[Measured]] = {}
    for item in candidates:
        groups.setdefault(item.name, []).append(item)
    judged = [
        several.joined(
            gate,
            {task: judge_one(own, [several.part_of(item, task) for item in builds]) for task, own in contexts.items()},
        )
        for builds in groups.values()
    ]
    if gate.confidence > 0:
        judged = list(in_sequence(judged, groups, spending))
    return _decide(context, judged, groups, targets[0])


@dataclass(frozen=True)
class _Context:
    """What all candidates are judged against."""

    gate: Gate
    base: Measured
    clock: Clock
    fp32: Measured | None
    spending: Spending
    references: dict[float, Reference] = field(default_factory=dict)
    """The reference's records by the confidence that they are judged at; empty where accuracy cannot be judged."""
    shown: tuple[str, ...] = ()
    """What is measured of every candidate: metrics, and classes as ``recall/person``."""
    wanted: tuple[Wanted, ...] = ()
    missing: str = ""
    """Why accuracy cannot be judged; empty when it can."""
    absent: frozenset[str] = frozenset()
    """Metrics of the task that no evaluation image holds an example for."""
    turns: Turns | None = None
    release: Measured | None = None
    releases: dict[float, Reference] = field(default_factory=dict)
    """The release's records, as ``references`` holds the reference's."""

    def with_release(self, release: Measured) -> _Context:
        """This with the release in the field. Its images are what the reference's are; so are their units."""
        if self.missing:
            return self
        require_pairable(self.gate, self.base, release)
        evaluation = release.trial.evaluation
        examples = evaluation.examples if evaluation is not None else {}
        releases = {
            level: Reference(release.records, level, found.resamples, examples, found.units)
            for level, found in self.references.items()
        }
        return replace(self, release=release, releases=releases)

    @classmethod
    def of(cls, gate: Gate, candidates: Sequence[Measured], reference: Measured, spending: Spending) -> _Context:
        fp32 = next((item for item in candidates if _runs_fp32(item)), None)
        clock = common_clock([item.trial.latency for item in candidates], gate.clock)
        evaluation = reference.trial.evaluation
        if evaluation is None or not reference.records:
            failure = reference.trial.failure
            why = f"the reference failed: {failure.message}" if failure else "the reference was not evaluated"
            return cls(gate, reference, clock, fp32, spending, wanted=_wanted(gate, ""), missing=why)
        levels = {spending.confidence(item.name, gate.confidence) for item in candidates}
        references = {
            level: Reference(reference.records, level, gate.resamples, evaluation.examples) for level in levels
        }
        task = metrics.task_of(reference.records)
        wrong = unknown_class_metric(gate, task)
        if wrong:
            raise UserInputError(wrong[0], do="correct the config's gate")
        class_metric = task.CLASS_METRIC if gate.critical_metric == "auto" else gate.critical_metric
        classes = [str(name) for name in reference.records.get("classes", ())]
        possible = task.metric_names(classes) or ()
        problems = unknown_names(gate, list(dict.fromkeys([*sorted(evaluation.metrics), *possible])), classes)
        if problems:
            raise UserInputError("\n".join(problems), do="correct the names in the config's gate")
        refuse_percents(gate, reference.records)
        refuse_direction(gate, reference.records)
        if gate.critical_min and metrics.lower_is_better(reference.records, class_metric):
            raise UserInputError(f"gate.critical_min: less is better of {class_metric}", do="use gate.critical")
        wanted = _wanted(gate, class_metric)
        per_class = [f"{class_metric}/{name}" for name in evaluation.per_class.get(class_metric, {})]
        shown = dict.fromkeys([*evaluation.metrics, *per_class, *(item.what for item in wanted)])
        absent = frozenset(possible) - evaluation.metrics.keys()
        return cls(gate, reference, clock, fp32, spending, references, tuple(shown), wanted, absent=absent)


def _context(
    gate: Gate, candidates: Sequence[Measured], reference: Measured, beside: tuple[Spending, Beside], task: str
) -> _Context:
    """What candidates are judged against in one task."""
    spending, others = beside
    builds = [several.part_of(item, task) for item in candidates]
    own = _Context.of(several.gate_of(gate, task), builds, several.part_of(reference, task), spending)
    context = replace(own, turns=others.turns)
    if gate.baseline is not None and others.release is not None:
        context = context.with_release(several.part_of(others.release, task))
    return context


def _over_all(gate: Gate, reference: Measured, contexts: Mapping[str, _Context]) -> _Context:
    """What is told of all tasks together."""
    if "" in contexts:
        return contexts[""]
    wanted = tuple(
        replace(item, subject=f"{task}.{item.subject}", what=f"{task}.{item.what}")
        for task, own in contexts.items()
        for item in own.wanted
    )
    return replace(next(iter(contexts.values())), gate=gate, base=reference, wanted=wanted)


def _runs_fp32(item: Measured) -> bool:
    return item.trial.candidate.precision == "fp32" and item.trial.latency is not None


def _wanted(gate: Gate, class_metric: str) -> tuple[Wanted, ...]:
    """The accuracy rules that the config sets."""
    drops = [Wanted(rulebook.MAX_DROP, name, name, limit) for name, limit in gate.max_drop.items()]
    critical = [
        Wanted(rulebook.CRITICAL, name, f"{class_metric}/{name}", limit) for name, limit in gate.critical.items()
    ]
    floors = [Wanted(rulebook.MIN, name, name, limit) for name, limit in gate.min.items()]
    floors += [Wanted(rulebook.MAX, name, name, limit) for name, limit in gate.max.items()]
    floors += [
        Wanted(rulebook.CRITICAL_MIN, name, f"{class_metric}/{name}", limit)
        for name, limit in gate.critical_min.items()
    ]
    released = [Wanted(rulebook.BASELINE, item.what.strip("/"), item.what, item.limit) for item in (*drops, *critical)]
    return (*floors, *drops, *critical, *(released if gate.baseline is not None else ()))


def judge_one(context: _Context, builds: Sequence[Measured]) -> Judged:
    """Judge one candidate over all of its builds."""
    gate, first = context.gate, builds[0]
    cases = [_case(context, item) for item in builds]
    each = [_judge_build(case) for case in cases]
    names = dict.fromkeys(rule.name for found in each for rule in found)
    merged = [rulebook.worst([rule for found in each for rule in found if rule.name == name]) for name in names]
    if gate.rebuilds > 1:
        merged.append(_rebuild_rule(context, builds))
    worst = max(cases, key=lambda case: case.largest_drop)
    return Judged(
        candidate=first.name,
        target_name=first.trial.target_name,
        outcome=rulebook.outcome_of(merged),
        rules=tuple(merged),
        **_shown(worst.drops),
        agreement=worst.answers.share if worst.answers else None,
        score_shift=worst.answers.score_shift if worst.answers else None,
        **_speedup(context, builds),
    )


def _case(context: _Context, item: Measured) -> Case:
    """One build with its drops and its agreement, where it can be compared with the reference."""
    why = context.missing
    reference = context.references.get(context.spending.confidence(item.name, context.gate.confidence))
    if not why and (item.trial.evaluation is None or not item.records):
        why = "the candidate was not evaluated"
    case = Case(
        context.gate,
        item,
        context.clock,
        context.fp32,
        reference,
        context.wanted,
        why,
        context.absent,
        turns=context.turns,
    )
    if why or reference is None or item.trial.failure is not None:
        return replace(case, released=_beside_release(context, case))
    check_paired(reference.records, item.records, item.name)
    case = replace(case, released=_beside_release(context, case))
    units = (
        by_neighbours(reference.records, item.records, reference.units) if context.gate.confidence else reference.units
    )
    if units is not reference.units:
        reference = Reference(reference.records, reference.confidence, reference.resamples, reference.examples, units)
        case = replace(case, reference=reference)
    floors = [wanted.what for wanted in context.wanted if rulebook.of(wanted.family).quantity == "level"]
    known = {what: level(reference, item.records, what) for what in dict.fromkeys(floors) if what not in context.absent}
    case = replace(case, levels={what: found for what, found in known.items() if found is not None})
    if context.gate.confidence > 0 and item.is_same_as(context.base):
        case = replace(case, drops=unchanged(reference, context.shown), answers=same_answers(reference))
    else:
        exact = frozenset(wanted.what for wanted in context.wanted)
        drops = measure(reference, item.records, context.shown, exact)
        case = replace(case, drops=drops, answers=compare_answers(reference, item.records))
    return replace(case, doubts=_doubts(context, case))


def _beside_release(context: _Context, case: Case) -> Case | None:
    """The same build with its drops against the release in the field; None where the config names none."""
    gate, item = context.gate, case.item
    if gate.baseline is None:
        return None
    release = context.releases.get(context.spending.confidence(item.name, gate.confidence))
    why = case.missing or ("the release that gate.baseline names was not read" if release is None else "")
    case = replace(case, base="release", missing=why, reference=release)
    if why or release is None or context.release is None or item.trial.failure is not None:
        return case
    names = tuple(dict.fromkeys(wanted.what for wanted in context.wanted if wanted.family == rulebook.BASELINE))
    if gate.confidence > 0 and item.is_same_as(context.release):
        return replace(case, drops=unchanged(release, names, IDENTICAL_TO_RELEASE))
    units = by_neighbours(release.records, item.records, release.units) if gate.confidence else release.units
    if units is not release.units:
        release = Reference(release.records, release.confidence, release.resamples, release.examples, units)
    drops = measure(release, item.records, names, frozenset(names))
    return replace(case, reference=release, drops=drops)


def _doubts(context: _Context, case: Case) -> tuple[str, ...]:
    """Why the comparison proves nothing, where a rule rests on it and the statistics are on."""
    gate, reference = context.gate, case.reference
    if gate.confidence == 0 or reference is None or not (context.wanted or gate.min_agreement):
        return ()
    compared = [wanted for wanted in context.wanted if wanted.family != rulebook.BASELINE]
    found = doubts(reference, compared, bool(gate.min or gate.max), _never_found(context))
    if not found and case.answers is not None and (apart := unlike(reference, case.item.records, case.answers)):
        return (f"{case.item.name} {apart}",)
    return found


def _never_found(context: _Context) -> tuple[str, ...]:
    """Classes whose every labelled example the reference misses, where there are enough to tell."""
    evaluation = context.base.trial.evaluation
    if evaluation is None:
        return ()
    metric = metrics.task_of(context.base.records).CLASS_METRIC
    if metrics.lower_is_better(context.base.records, metric):
        return ()
    values = evaluation.per_class.get(metric, {})
    return tuple(name for name, value in values.items() if value == 0 and evaluation.examples.get(name, 0) >= EXAMPLES)


def _judge_build(case: Case) -> list[Rule]:
    failure = case.item.trial.failure
    if failure is not None:
        reason = f"{failure.stage} failed: {failure.message}"
        return [rulebook.of(rulebook.TRIAL).rule("fail", reason)]
    found = [rule for family in rulebook.FAMILIES.values() if family.judge for rule in family.judge(family, case)]
    if not rulebook.sets_a_rule(case.gate):
        found.append(rulebook.of(rulebook.EMPTY).unmeasured(None, "the config sets no rule, so nothing was decided"))
    return found


def _rebuild_rule(context: _Context, builds: Sequence[Measured]) -> Rule:
    """Whether all builds that were asked for are there, and how far they are apart."""
    family, asked = rulebook.of(rulebook.REBUILDS), context.gate.rebuilds
    if len(builds) < asked:
        return family.unmeasured(float(asked), f"{len(builds)} of {asked} builds were tried")
    medians = medians_of(context.clock, builds)
    parts = []
    if medians:
        parts.append(f"medians {min(medians):.3g} to {max(medians):.3g} ms")
    spread = output_spread(builds)
    if spread is not None:
        parts.append(f"outputs differ by at most {spread:.3g}")
    reason = f"{len(builds)} builds, the worst counts: {', '.join(parts) or 'nothing was run'}"
    return family.rule("pass", reason, limit=float(asked), measured=float(len(builds)))


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


def _speedup(context: _Context, builds: Sequence[Measured]) -> dict[str, object]:
    """The fields of Judged about the speed-up over fp32: turn by turn where both took turns, else by the medians."""
    if context.fp32 is not None:
        paired = paired_speedup(context.turns, context.fp32.name, builds[0].name, 0.0)
        if paired is not None:
            return {"speedup": paired[0], "speedup_by": "turns"}
    ours = slowest(context.clock, builds)
    theirs = slowest(context.clock, [context.fp32]) if context.fp32 else math.inf
    if not (math.isfinite(ours) and math.isfinite(theirs) and ours > 0):
        return {}
    return {"speedup": theirs / ours, "speedup_by": "medians"}


def _fastest_first(passing: list[Judged], medians: dict[str, float], turns: Turns | None) -> list[Judged]:
    """By the medians of their turns where all of them took some, else by the medians of their trials."""
    names = [item.candidate for item in passing]
    turned = {name: turns.median_of(name) for name in names} if turns is not None else {}
    times = {name: time for name, time in turned.items() if time is not None}
    return sorted(passing, key=lambda item: (times if len(times) == len(names) else medians)[item.candidate])


def _beside_others(chosen: Judged, passing: Sequence[Judged], turns: Turns | None) -> str:
    """What taking turns said of the one that ships; empty where none were taken."""
    if turns is None or chosen.candidate not in turns.names:
        return ""
    low = dict(zip(turns.names, turns.ratio_low, strict=True))
    equal = [item.candidate for item in passing[1:] if low.get(item.candidate, 2.0) <= 1.0]
    if equal:
        return f"; timed turn by turn, {', '.join(equal)} may be as fast"
    return "; the fastest also when timed turn by turn"


def _decide(context: _Context, judged: Sequence[Judged], groups: dict[str, list[Measured]], target: str) -> Decision:
    medians = {name: slowest(context.clock, builds) for name, builds in groups.items()}
    passing = _fastest_first([item for item in judged if item.outcome == "pass"], medians, context.turns)
    open_ = [item for item in judged if item.outcome == "inconclusive"]
    verdict: VerdictWord = "SHIP" if passing else "INCONCLUSIVE" if open_ else "NO-SHIP"
    chosen = passing[0] if passing else None
    gate = context.gate
    told = Told(judged, groups, medians, tested(judged), 1 - gate.confidence)
    text = sentence(told, chosen, open_) + _own_figure(context)
    if chosen is not None and len(passing) > 1:
        text += _beside_others(chosen, passing, context.turns)
    if context.spending.earlier and gate.confidence > 0:
        sure = 100 * context.spending.confidence(judged[0].candidate, gate.confidence)
        text += f" (look {context.spending.earlier + 1} at this model: judged at {sure:.4g} % to pay for the others)"
    if gate.confidence == 0:
        text += " (statistics are off: confidence = 0)"
    elif gate.confidence < LOW_CONFIDENCE:
        text += f" (at a confidence of {gate.confidence:g} only)"
    name = chosen.candidate if chosen else None
    weak = remarks(gate, shares=_in_shares(context.base))
    return Decision(
        verdict=verdict,
        chosen=name,
        target_name=target,
        sentence=" ".join(f"{part}." for part in (text, *weak)),
        judged=tuple(judged),
        earlier=context.spending.earlier,
        remarks=weak,
    )


def _in_shares(base: Measured) -> bool:
    """Whether the metrics are shares of 1: those of a task of one's own may be anything."""
    evaluation = base.trial.evaluation
    return evaluation is None or ":" not in evaluation.task


def _own_figure(context: _Context) -> str:
    """The reference's own metric, on which every drop stands; empty where it was not evaluated."""
    evaluation = context.base.trial.evaluation
    named = [wanted.what for wanted in context.wanted if "/" not in wanted.what]
    known = evaluation.metrics if evaluation is not None else {}
    name = next((item for item in (*named, *known) if item in known), None)
    if evaluation is None or name is None:
        return ""
    return f" (the reference's {name} is {known[name]:.4f} on {evaluation.images} images)"
