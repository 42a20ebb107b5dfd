"""The rules of the gate. Each function judges one family of rules for one case, with a reason for a human.

Their names, titles, units and directions stand in :mod:`edgeship.decide.rulebook`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeship import metrics
from edgeship.decide.case import Case, Family, Wanted
from edgeship.decide.drops import POINT, UNTESTED, Drop
from edgeship.decide.paired_times import METHOD, paired_speedup
from edgeship.decide.statistics import Floats, bootstrap_images_needed, quantile_lower, quantile_upper
from edgeship.results import Latency, Outcome, Rule
from edgeship.results.separate_calls import reliable, samples_needed

SLACK = 1e-12
MIB = 1 << 20
ORDER = "order statistics"
BEYOND = "ten times a quantile halfway beyond"
FAR = 10
"""Other work, throttling and bursts slow an engine down by less. Calls that are slow together do not bound a quantile
by their order: a budget that is kept so many times over by the quantile halfway from the asked one to the slowest call
(p75 for the median, p99.5 for p99) is kept all the same. What disturbed the calls excuses a missed budget, but not one
that the quantile halfway to the fastest call (p25, p49.5) misses so many times over."""
GOES_ON = 10
"""A drift may go on for so many times as long as was measured, and the budget must still be kept."""


def untrusted(latency: Latency) -> str:
    """Why a latency cannot be trusted; empty when it can."""
    if latency.conditions.changed:
        return f"conditions changed during the measurement: {latency.conditions.changed}"
    return ""


def disturbed(latency: Latency) -> str:
    """Why times may be longer than on a quiet machine, or not yet known; empty when neither is so.

    It can spoil a budget that was not kept (:func:`excuse`), never one whose bound was.
    """
    if latency.conditions.machine.busy:
        return f"the machine was busy: {latency.conditions.machine.busy}"
    if slower_at_first := falling(latency):
        return slower_at_first
    if not latency.settled:
        low, high = latency.wall_ms.interval
        return latency.unsettled or (
            f"the median was not known to the asked-for precision within the time limit (between {low:.3g} and "
            f"{high:.3g} ms after {latency.wall_ms.samples} calls); raise benchmark.max_s or quiet the machine"
        )
    return ""


def excuse(why: str, samples: Floats, level: float, limit: float) -> str:
    """``why`` calls were slow, where that may be why a budget was missed: empty where it was missed by far.

    Args:
        why: What disturbed the calls; empty where nothing did.
        samples: What each call took.
        level: The quantile that the budget is for.
        limit: The budget, in the unit of the samples.
    """
    if why and len(samples) and np.quantile(samples, level / 2, method="inverted_cdf") > FAR * limit:
        return ""
    return why


def rising(latency: Latency, room: float) -> str:
    """That calls took ever longer, and would leave the budget if that went on; empty where it would not.

    Args:
        latency: What was measured; its drift is told only where it is surely beyond ``benchmark.precision``.
        room: What the budget allows over what is sure, 1 or more: how often the time may grow.
    """
    if not latency.drift_sure or latency.drift <= 0 or 1 + GOES_ON * latency.drift <= room:
        return ""
    return (
        f"the calls took longer and longer, by {latency.drift:.1%} from the first to the last, so that this is not yet "
        "what lasts; hold the load first with benchmark.soak_s"
    )


def falling(latency: Latency) -> str:
    """That calls took ever less time, so that what was measured is more than what lasts; empty where they did not."""
    if not latency.drift_sure or latency.drift >= 0:
        return ""
    return f"the calls were still becoming faster, by {-latency.drift:.1%} in all; raise benchmark.warmup_s"


def latency(family: Family, case: Case, *, level: float) -> Iterator[Rule]:
    """A latency budget: the quantile ``level`` and its upper bound against the limit."""
    gate, limit = case.gate, family.limit(case.gate)
    if limit is None:
        return
    timed, quantiles = case.item.trial.latency, case.times()
    if timed is None or quantiles is None:
        what = "latency was not measured" if timed is None else "device time was not measured on this engine"
        yield family.unmeasured(limit, what)
        return
    label = f"p{round(level * 100)}"
    measured = {0.5: quantiles.p50, 0.9: quantiles.p90, 0.99: quantiles.p99}[level]
    said = f"{label} {measured:.3g} ms {case.clock} time at batch {timed.batch}"
    bound, method, problem = measured, POINT, ""
    if gate.confidence > 0:
        samples = case.samples(case.clock)
        bound, method = upper_bound(samples, level, gate.confidence)
        if method != ORDER and bound > limit:
            bound, problem = math.inf, _too_few(len(samples), level, gate.confidence)
    outcome: Outcome = "inconclusive"
    if distrust := untrusted(timed):
        reason = f"{said}, but {distrust}"
    elif not math.isfinite(measured):
        outcome, reason = "fail", f"{label} is {measured}, not a time"
    elif measured > limit + SLACK:
        outcome, reason = "fail", f"{said} is over the budget of {limit:g} ms by {measured - limit:.3g} ms"
        if spoiled := excuse(disturbed(timed), case.samples(case.clock), level, limit):
            outcome, reason = "inconclusive", f"{reason}, but {spoiled}"
    elif problem:
        reason = f"{said}, but {problem}"
    elif bound > limit + SLACK:
        reason = f"{said} is within {limit:g} ms, its bound of {bound:.3g} ms is not; measure longer (benchmark.min_s)"
    elif drift := rising(timed, limit / bound):
        reason = f"{said} is within {limit:g} ms, but {drift}"
    else:
        outcome, reason = "pass", f"{said}{_bound_text(gate.confidence, bound, ' ms')}, within {limit:g} ms"
    yield family.rule(outcome, reason, limit=limit, measured=measured, bound=_finite(bound), method=method)


def upper_bound(samples: Floats, level: float, confidence: float, *, looked: bool = True) -> tuple[float, str]:
    """The upper bound of a quantile and its method: by the order of the samples, else :data:`FAR` times one beyond it.

    ``inf`` where there are fewer samples than a bound takes.
    """
    if len(samples) < samples_needed(level, confidence):
        return math.inf, BEYOND
    bound = quantile_upper(samples, level, confidence, looked=looked)
    if math.isfinite(bound):
        return bound, ORDER
    return FAR * float(np.quantile(samples, (1 + level) / 2, method="inverted_cdf")), BEYOND


def _too_few(calls: int, level: float, confidence: float) -> str:
    """Why the calls do not tell a quantile: there are too few, or they were slow and fast in long stretches."""
    needed, sure = samples_needed(level, confidence), f"{percent(confidence)} sure of p{round(level * 100)}"
    if calls < needed:
        return (
            f"{calls} calls are too few to be {sure}: it takes at least {needed}; raise benchmark.min_samples or min_s"
        )
    return (
        f"the {calls} calls tell less than {max(needed, reliable(calls))} separate ones, which it takes to be {sure}: "
        "they were slow in long stretches, as when other work comes and goes; quiet the machine, or raise "
        "benchmark.min_s"
    )


def speedup(family: Family, case: Case) -> Iterator[Rule]:
    """Median latency of the fp32 trial on the same target over this one's."""
    gate, limit, fp32, trial = case.gate, family.limit(case.gate), case.fp32, case.item.trial
    if limit is None:
        return
    if fp32 is None:
        why = "no fp32 candidate was measured on this target; add it to candidates.precisions"
        yield family.unmeasured(limit, why)
        return
    ours, theirs = case.times(), case.times(fp32)
    if ours is None or theirs is None or trial.latency is None or fp32.trial.latency is None:
        yield family.unmeasured(limit, "latency was not measured for this candidate and fp32 alike")
        return
    if ours.p50 <= 0:
        yield family.unmeasured(limit, "the median is zero: no speed-up can be formed")
        return
    measured = theirs.p50 / ours.p50
    bound, method = measured, POINT
    paired = paired_speedup(case.turns, fp32.name, case.item.name, gate.confidence)
    if fp32.trial == trial:
        method = "the same trial"
    elif paired is not None:
        (measured, bound), method = paired, METHOD
    elif gate.confidence > 0:
        each = 1 - (1 - gate.confidence) / 2
        mine, others = case.samples(case.clock), case.samples(case.clock, fp32)
        upper = quantile_upper(mine, 0.5, each) if len(mine) else math.inf
        lower = quantile_lower(others, 0.5, each) if len(others) else -math.inf
        bound, method = max(0.0, lower) / upper, "order statistics of both medians (Bonferroni)"
    how = "timed turn by turn" if paired is not None else "ratio of the medians"
    said = f"{measured:.2f} times as fast as fp32 on this target ({how})"
    distrust = untrusted(trial.latency) or untrusted(fp32.trial.latency)
    if paired is None and fp32.trial != trial:
        distrust = distrust or disturbed(trial.latency) or disturbed(fp32.trial.latency)
        distrust = distrust or rising(trial.latency, 1.0) or rising(fp32.trial.latency, 1.0)
    outcome: Outcome = "inconclusive"
    if distrust:
        reason = f"{said}, but {distrust}"
    elif measured < limit - SLACK:
        outcome, reason = "fail", f"{said}, {limit:g} is asked for"
        near = measured >= limit / FAR
        if near and paired is not None and case.turns is not None and case.turns.machine.busy:
            outcome = "inconclusive"
            reason = f"{reason}, but the machine was busy while they took turns: {case.turns.machine.busy}"
    elif bound < limit - SLACK:
        reason = (
            f"{said}, but at {percent(gate.confidence)} confidence only {bound:.2f} is sure and {limit:g} is asked for"
        )
    else:
        outcome, reason = "pass", f"{said}, at least {limit:g} is asked for"
    yield family.rule(outcome, reason, limit=limit, measured=measured, bound=bound, method=method)


def throughput(family: Family, case: Case) -> Iterator[Rule]:
    """Images a second, from the wall median."""
    gate, limit, timed = case.gate, family.limit(case.gate), case.item.trial.latency
    if limit is None:
        return
    if timed is None:
        yield family.unmeasured(limit, "latency was not measured")
        return
    measured, bound, method = timed.throughput, timed.throughput, POINT
    if gate.confidence > 0:
        upper, method = upper_bound(case.samples("wall"), 0.5, gate.confidence)
        bound = timed.batch * 1000 / upper
    said = f"{measured:.4g} images a second at batch {timed.batch}"
    outcome: Outcome = "inconclusive"
    if distrust := untrusted(timed):
        reason = f"{said}, but {distrust}"
    elif measured < limit - SLACK:
        outcome, reason = "fail", f"{said}, {limit:g} are asked for"
        if spoiled := excuse(disturbed(timed), case.samples("wall"), 0.5, timed.batch * 1000 / limit):
            outcome, reason = "inconclusive", f"{reason}, but {spoiled}"
    elif bound < limit - SLACK:
        reason = f"{said}, but only {bound:.4g} are sure and {limit:g} are asked for; measure longer"
    elif drift := rising(timed, bound / limit):
        reason = f"{said}, but {drift}"
    else:
        outcome, reason = "pass", f"{said}, at least {limit:g} are asked for"
    yield family.rule(outcome, reason, limit=limit, measured=measured, bound=bound, method=method)


def reference(family: Family, case: Case) -> Iterator[Rule]:
    """Whether the reference can be believed, where a rule compares with it."""
    if case.doubts:
        yield family.rule("inconclusive", "; ".join(case.doubts))


def floors(family: Family, case: Case) -> Iterator[Rule]:
    """What metrics and critical classes must reach by themselves: the lower bound against the limit."""
    for wanted in case.wanted:
        if wanted.family != family.name:
            continue
        subject, limit = wanted.subject, wanted.limit
        why = _no_example(case, wanted)
        if why or case.reference is None:
            yield family.unmeasured(limit, why, subject=subject)
            continue
        found = case.levels.get(wanted.what)
        if found is None:
            broken = f"{family.named(subject)}: the metric is not a number for this candidate; its outputs are broken"
            yield family.rule("fail", broken, subject=subject, limit=limit)
            continue
        more = family.higher_is_better
        bound, sign = (found.lower, 1) if more else (found.upper, -1)
        said = f"{subject} is {found.value:.4f} on {found.examples} examples"
        asked = f"{limit:g} must be reached" if more else f"{limit:g} is allowed"
        outcome: Outcome = "pass"
        if sign * found.value < sign * limit - SLACK:
            outcome, reason = "fail", f"{said}; {limit:g} is {'asked for' if more else 'allowed'}"
        elif sign * bound < sign * limit - SLACK:
            outcome = "inconclusive"
            sure = f"of which {bound:.4f} is sure" if more else f"which could be {bound:.4f}"
            reason = f"{said}, {sure} at {percent(case.confidence)}; {asked}"
        else:
            reason = f"{said}, at {'least' if more else 'most'} {bound:.4f} at {percent(case.confidence)}; {asked}"
        facts = {"measured": found.value, "bound": _finite(bound), "method": found.method}
        yield family.rule(outcome, reason, subject=subject, limit=limit, **facts)


def _no_example(case: Case, wanted: Wanted) -> str:
    """Why an accuracy rule cannot be judged; empty where it can."""
    class_name = wanted.what.partition("/")[2]
    if not case.missing and class_name and case.reference and not case.reference.examples.get(class_name):
        return f"the evaluation images hold no example of {class_name!r}; add some"
    if not case.missing and wanted.what in case.absent:
        return f"the evaluation images hold no example that {wanted.what} counts; add some"
    return case.missing


def drops(family: Family, case: Case) -> Iterator[Rule]:
    """The drops of metrics and of critical classes against their limits."""
    for wanted in case.wanted:
        if wanted.family != family.name:
            continue
        why = _no_example(case, wanted)
        if why or case.reference is None:
            yield family.unmeasured(wanted.limit, why, subject=wanted.subject)
        else:
            yield _drop(family, case, wanted)


def _drop(family: Family, case: Case, wanted: Wanted) -> Rule:
    """A drop against its limit. Where there is none, the candidate has no finite value."""
    subject, limit, drop = wanted.subject, wanted.limit, case.drops.get(wanted.what)
    if drop is None:
        broken = f"{family.named(subject)}: the metric is not a number for this candidate; its outputs are broken"
        return family.rule("fail", broken, subject=subject, limit=limit)
    estimate, bound = drop.interval.estimate, drop.interval.upper
    facts: dict[str, Any] = {"subject": subject, "limit": limit}
    facts |= {"measured": estimate, "bound": _finite(bound), "method": drop.method}
    if drop.method in UNTESTED:
        reason = f"{subject} is the {case.base}'s own: this is the same engine or gives the same outputs"
        return family.rule("pass", reason, **facts)
    against = "" if case.base == "reference" else f" against the {case.base}"
    moved, units = _moved(case, wanted.what, estimate), "examples" if drop.discordant else "images"
    said = f"{subject} {moved}{against} on {drop.examples} {units}"
    if estimate > limit + SLACK:
        return family.rule("fail", f"{said}; at most {limit:g} may be lost", **facts)
    if bound <= limit + SLACK:
        sure = _bound_text(case.confidence, bound)
        return family.rule("pass", f"{said}{sure}; {limit:g} may be lost{_noted(case, wanted.what)}", **facts)
    assert case.reference is not None
    more = drop.more_images(limit, case.confidence, case.reference.units.images)
    advice = f"about {more} more labelled images would decide it" if more else "no number of images would decide it"
    if limit == 0:
        advice = "a limit of 0 can be proved by no number of images; allow a small drop or set confidence = 0"
    reason = f"{said}, but it could be {bound:.4f} at {percent(case.confidence)} confidence and {limit:g} may be lost"
    reason += f"{_unseen(case, drop)}: {advice}{_noted(case, wanted.what)}"
    return family.rule("inconclusive", reason, more_images=more, **facts)


def release(family: Family, case: Case) -> Iterator[Rule]:
    """The same drops against the release in the field, where the config names its bundle."""
    if case.released is not None:
        yield from drops(family, case.released)


def _unseen(case: Case, drop: Drop) -> str:
    """That few images can tell, where what they cannot rule out decides."""
    support = drop.support
    if support is None or case.reference is None or drop.interval.upper <= drop.interval.estimate + drop.spread:
        return ""
    of = f" of {support.name!r}" if support.name else ""
    word = case.reference.units.word
    return f"; only {support.units} {word} hold examples{of}, and a failure that none of them shows is not ruled out"


def _noted(case: Case, what: str) -> str:
    """What was found out about the images: groups, copies, numbers that the reference could not give."""
    notes = list(case.reference.units.notes) if case.reference is not None else []
    if case.reference is not None and (unknown := case.reference.unknown(what)):
        notes.append(f"{unknown} images left out: the reference's value is not a number there")
    return f" ({'; '.join(notes)})" if notes else ""


def _moved(case: Case, what: str, drop: float) -> str:
    """How the metric moved; a drop above 0 is worse, whether less or more is better."""
    if drop == 0:
        return "is unchanged"
    less = case.reference is not None and metrics.lower_is_better(case.reference.records, what)
    return f"{'fell' if (drop > 0) != less else 'rose'} by {abs(drop):.4f}"


def agreement(family: Family, case: Case) -> Iterator[Rule]:
    """Share of answers that candidate and reference have in common, with a lower bound."""
    gate, limit, answers = case.gate, family.limit(case.gate), case.answers
    if limit is None:
        return
    if answers is None:
        yield family.unmeasured(limit, case.missing or "agreement with the reference was not measured")
        return
    measured, bound = answers.share, answers.sure
    method = answers.method if gate.confidence > 0 else POINT
    said = f"agrees with the reference on {measured:.2%} of the answers for {answers.images} images"
    outcome: Outcome = "pass"
    more: int | None = None
    if measured < limit - SLACK:
        outcome, reason = "fail", f"{said}; {limit:.2%} are asked for"
    elif bound < limit - SLACK:
        outcome, reason = "inconclusive", f"{said}, of which {bound:.2%} are sure; {limit:.2%} are asked for"
        more = bootstrap_images_needed(1 - measured, 1 - bound, answers.images, 1 - limit, case.confidence)
        if more:
            reason += f": about {more} more images would decide it"
    else:
        reason = f"{said}; at least {limit:.2%} are asked for"
    yield family.rule(outcome, reason, limit=limit, measured=measured, bound=bound, method=method, more_images=more)


def audit(family: Family, case: Case) -> Iterator[Rule]:
    """Whether the engine really runs in the precision that was asked for."""
    found, limit = case.item.trial.audit, family.limit(case.gate)
    assert limit is not None
    if found is None:
        yield family.unmeasured(limit, "the precision of the engine's layers was not audited")
        return
    if found.achieved is None:
        why = "; ".join(found.notes) or "the engine's report names none of the model's convolutions and products"
        yield family.unmeasured(limit, f"nothing is known to run in {found.asked}: {why}")
        return
    said = f"{found.asked} does {found.achieved:.0%} of the arithmetic of convolutions and matrix products"
    if found.kept_share and found.arithmetic is not None:
        said = f"{found.asked} does {found.arithmetic:.0%} of the arithmetic, {found.kept_share:.0%} is kept on request"
    outcome: Outcome = "pass"
    if not math.isfinite(found.achieved) or found.achieved < limit - SLACK:
        missed = ", ".join(layer.name for layer in found.missed[:3])
        outcome, said = "fail", f"{said}; at least {limit:.0%} must{f' (not: {missed})' if missed else ''}"
    method = f"read from the {found.source}"
    yield family.rule(outcome, said, limit=limit, measured=found.achieved, bound=found.achieved, method=method)


def runnable(family: Family, case: Case) -> Iterator[Rule]:
    """Whether the engine could be run here at all."""
    build = case.item.trial.build
    if build is not None and not build.runnable:
        why = build.reason or "no GPU here"
        yield family.unmeasured(None, f"built and audited, not run: {why}")


def engine_size(family: Family, case: Case) -> Iterator[Rule]:
    """Size of the engine file."""
    build = case.item.trial.build
    yield from _at_most(family, case, "the engine is", build.engine.size_bytes / MIB if build else None)


def memory(family: Family, case: Case) -> Iterator[Rule]:
    """Peak memory while latency was measured."""
    timed = case.item.trial.latency
    yield from _at_most(family, case, "peak memory is", timed.peak_memory_mib if timed else None)


def _at_most(family: Family, case: Case, words: str, measured: float | None) -> Iterator[Rule]:
    limit = family.limit(case.gate)
    if limit is None:
        return
    if measured is None:
        yield family.unmeasured(limit, f"{family.title[:1].lower()}{family.title[1:]} was not measured")
        return
    outcome: Outcome = "pass" if measured <= limit + SLACK else "fail"
    reason = f"{words} {measured:.1f} MiB, {limit:g} MiB are allowed"
    yield family.rule(outcome, reason, limit=limit, measured=measured, bound=measured)


def _bound_text(confidence: float, bound: float, unit: str = "") -> str:
    return f" (at {percent(confidence)} confidence at most {bound:.4g}{unit})" if confidence > 0 else ""


def percent(share: float) -> str:
    """A confidence as it is said: ``95 %``, ``95.5 %``."""
    return f"{100 * share:.4g} %"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
