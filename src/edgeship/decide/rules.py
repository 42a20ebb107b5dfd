"""The rules of the gate, each judged for one trial. Every function returns a Rule with a reason for a human."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeship.config import Gate
from edgeship.decide.agreement import Answers
from edgeship.decide.drops import IDENTICAL, POINT, Drop
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.statistics import bootstrap_images_needed, quantile_lower, quantile_upper, samples_needed
from edgeship.results import Latency, Outcome, Quantiles, Rule

SLACK = 1e-12
MIB = 1 << 20
ORDER = "order statistics"
SPEED = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "speedup_over_fp32", "throughput_min")
"""Rules of time; what a candidate breaks beside them, it breaks in accuracy or size."""


def clock_of(gate: Gate, latency: Latency) -> str:
    """Which time the latency rules read of this trial: ``device`` or ``wall``."""
    if gate.clock == "auto":
        return "device" if latency.device_ms is not None else "wall"
    return gate.clock


def quantiles_of(gate: Gate, trial: Measured) -> Quantiles | None:
    """The quantiles that the gate reads; None where they were not measured."""
    latency = trial.trial.latency
    if latency is None:
        return None
    return latency.device_ms if clock_of(gate, latency) == "device" else latency.wall_ms


def samples_of(gate: Gate, trial: Measured) -> NDArray[np.float64]:
    """The latency samples that the gate reads; empty where there are none."""
    latency = trial.trial.latency
    if latency is None:
        return np.empty(0)
    return np.asarray(trial.latency.get(f"{clock_of(gate, latency)}_ms", np.empty(0)), dtype=np.float64)


def untrusted(latency: Latency) -> str:
    """Why a latency cannot be trusted; empty when it can."""
    if latency.conditions.changed:
        return f"conditions changed during the measurement: {latency.conditions.changed}"
    if not latency.settled:
        low, high = latency.wall_ms.interval
        return (
            f"the median was not known to the asked-for precision within the time limit (between {low:.3g} and "
            f"{high:.3g} ms after {latency.wall_ms.samples} calls); raise benchmark.max_s or quiet the machine"
        )
    return ""


def latency_rules(gate: Gate, trial: Measured) -> list[Rule]:
    """The latency budgets that the gate sets."""
    budgets = (
        ("latency_p50_ms", 0.5, gate.latency_p50_ms),
        ("latency_p90_ms", 0.9, gate.latency_p90_ms),
        ("latency_p99_ms", 0.99, gate.latency_p99_ms),
    )
    return [_latency(gate, trial, name, level, limit) for name, level, limit in budgets if limit is not None]


def _latency(gate: Gate, trial: Measured, name: str, level: float, limit: float) -> Rule:
    latency, quantiles = trial.trial.latency, quantiles_of(gate, trial)
    if latency is None or quantiles is None:
        what = "latency was not measured" if latency is None else "device time was not measured on this engine"
        return unmeasured(name, limit, what, unit="ms")
    label = f"p{round(level * 100)}"
    measured = {0.5: quantiles.p50, 0.9: quantiles.p90, 0.99: quantiles.p99}[level]
    said = f"{label} {measured:.3g} ms {clock_of(gate, latency)} time at batch {latency.batch}"
    bound, method, problem = measured, POINT, ""
    if gate.confidence > 0:
        samples = samples_of(gate, trial)
        bound, method = quantile_upper(samples, level, gate.confidence) if len(samples) else math.inf, ORDER
        if not math.isfinite(bound):
            needed = samples_needed(level, gate.confidence)
            problem = (
                f"{len(samples)} samples do not bound {label} at {gate.confidence:.0%}: at least {needed} independent "
                "ones are needed, and calls that are slow together count as few; raise benchmark.min_samples or min_s, "
                "or quiet the machine"
            )
    facts = {"name": name, "measured": measured, "bound": _finite(bound), "limit": limit, "unit": "ms"}
    if distrust := untrusted(latency):
        return Rule(**facts, outcome="inconclusive", reason=f"{said}, but {distrust}", method=method)
    if not math.isfinite(measured):
        return Rule(**facts, outcome="fail", reason=f"{label} is {measured}, not a time", method=method)
    if measured > limit + SLACK:
        reason = f"{said} is over the budget of {limit:g} ms by {measured - limit:.3g} ms"
        return Rule(**facts, outcome="fail", reason=reason, method=method)
    if problem:
        return Rule(**facts, outcome="inconclusive", reason=f"{said}, but {problem}", method=method)
    if bound > limit + SLACK:
        reason = f"{said} is within {limit:g} ms, its bound of {bound:.3g} ms is not; measure longer (benchmark.min_s)"
        return Rule(**facts, outcome="inconclusive", reason=reason, method=method)
    reason = f"{said}{_bound_text(gate, bound, ' ms')}, within {limit:g} ms"
    return Rule(**facts, outcome="pass", reason=reason, method=method)


def speedup_rule(gate: Gate, trial: Measured, fp32: Measured | None) -> Rule:
    """Median latency of the fp32 trial on the same target over this one's."""
    name, limit = "speedup_over_fp32", gate.speedup_over_fp32
    assert limit is not None
    if fp32 is None:
        return unmeasured(name, limit, "no fp32 candidate was measured on this target; add it to candidates.precisions")
    ours, theirs = quantiles_of(gate, trial), quantiles_of(gate, fp32)
    if ours is None or theirs is None or trial.trial.latency is None or fp32.trial.latency is None:
        return unmeasured(name, limit, "latency was not measured for this candidate and fp32 alike")
    if ours.p50 <= 0:
        return unmeasured(name, limit, "the median is zero: no speed-up can be formed")
    measured = theirs.p50 / ours.p50
    bound, method = measured, POINT
    if fp32.trial == trial.trial:
        bound, method = measured, "the same trial"
    elif gate.confidence > 0:
        each = 1 - (1 - gate.confidence) / 2
        mine, others = samples_of(gate, trial), samples_of(gate, fp32)
        upper = quantile_upper(mine, 0.5, each) if len(mine) else math.inf
        lower = quantile_lower(others, 0.5, each) if len(others) else -math.inf
        bound, method = max(0.0, lower) / upper, "order statistics of both medians (Bonferroni)"
    facts = {"name": name, "measured": measured, "bound": bound, "limit": limit, "unit": "x", "method": method}
    said = f"{measured:.2f} times as fast as fp32 on this target"
    for latency in (trial.trial.latency, fp32.trial.latency):
        if distrust := untrusted(latency):
            return Rule(**facts, outcome="inconclusive", reason=f"{said}, but {distrust}")
    if measured < limit - SLACK:
        return Rule(**facts, outcome="fail", reason=f"{said}, {limit:g} is asked for")
    if bound < limit - SLACK:
        reason = f"{said}, but at {gate.confidence:.0%} confidence only {bound:.2f} is sure and {limit:g} is asked for"
        return Rule(**facts, outcome="inconclusive", reason=reason)
    return Rule(**facts, outcome="pass", reason=f"{said}, at least {limit:g} is asked for")


def throughput_rule(gate: Gate, trial: Measured) -> Rule:
    """Images a second, from the wall median."""
    name, limit, latency = "throughput_min", gate.throughput_min, trial.trial.latency
    assert limit is not None
    if latency is None:
        return unmeasured(name, limit, "latency was not measured", unit="images/s")
    bound, method = latency.throughput, POINT
    if gate.confidence > 0:
        samples = np.asarray(trial.latency.get("wall_ms", np.empty(0)), dtype=np.float64)
        upper = quantile_upper(samples, 0.5, gate.confidence) if len(samples) else math.inf
        bound, method = latency.batch * 1000 / upper, ORDER
    facts = {"name": name, "measured": latency.throughput, "bound": bound, "limit": limit, "unit": "images/s"}
    said = f"{latency.throughput:.4g} images a second at batch {latency.batch}"
    if distrust := untrusted(latency):
        return Rule(**facts, outcome="inconclusive", reason=f"{said}, but {distrust}", method=method)
    if latency.throughput < limit - SLACK:
        return Rule(**facts, outcome="fail", reason=f"{said}, {limit:g} are asked for", method=method)
    if bound < limit - SLACK:
        reason = f"{said}, but only {bound:.4g} are sure and {limit:g} are asked for; measure longer"
        return Rule(**facts, outcome="inconclusive", reason=reason, method=method)
    return Rule(**facts, outcome="pass", reason=f"{said}, at least {limit:g} are asked for", method=method)


def drop_rule(gate: Gate, name: str, limit: float, drop: Drop | None, images: int) -> Rule:
    """A drop of a metric against its limit. ``drop`` None: the metric has no finite value."""
    if drop is None:
        return Rule(
            name=name,
            outcome="fail",
            measured=None,
            limit=limit,
            reason=f"{name}: the metric is not a number for this candidate; its outputs are broken",
        )
    estimate, bound = drop.interval.estimate, drop.interval.upper
    facts = {"name": name, "measured": estimate, "bound": _finite(bound), "limit": limit, "method": drop.method}
    moved = (
        f"fell by {estimate:.4f}" if estimate > 0 else f"rose by {-estimate:.4f}" if estimate < 0 else "is unchanged"
    )
    if drop.method == IDENTICAL:
        reason = f"{name.partition('.')[2]} is the reference's own: this is the same engine or gives the same outputs"
        return Rule(**facts, outcome="pass", reason=reason)
    said = f"{name.partition('.')[2]} {moved} on {drop.examples} {'examples' if drop.discordant else 'images'}"
    if estimate > limit + SLACK:
        return Rule(**facts, outcome="fail", reason=f"{said}; at most {limit:g} may be lost")
    if bound <= limit + SLACK:
        return Rule(**facts, outcome="pass", reason=f"{said}{_bound_text(gate, bound)}; {limit:g} may be lost")
    more = drop.more_images(limit, gate.confidence, images)
    advice = f"about {more} more labelled images would decide it" if more else "no number of images would decide it"
    if limit == 0:
        advice = "a limit of 0 can be proved by no number of images; allow a small drop or set confidence = 0"
    reason = (
        f"{said}, but it could be {bound:.4f} at {gate.confidence:.0%} confidence and {limit:g} may be lost: {advice}"
    )
    return Rule(**facts, outcome="inconclusive", reason=reason, more_images=more)


def agreement_rule(gate: Gate, answers: Answers | None) -> Rule:
    """Share of answers that candidate and reference have in common, with a lower bound."""
    limit = gate.min_agreement
    assert limit is not None
    if answers is None:
        return unmeasured("min_agreement", limit, "agreement with the reference was not measured")
    measured, bound = answers.share, answers.sure
    method = answers.method if gate.confidence > 0 else POINT
    facts = {"name": "min_agreement", "measured": measured, "bound": bound, "limit": limit, "method": method}
    said = f"agrees with the reference on {measured:.2%} of the answers for {answers.images} images"
    if measured < limit - SLACK:
        return Rule(**facts, outcome="fail", reason=f"{said}; {limit:.2%} are asked for")
    if bound < limit - SLACK:
        more = bootstrap_images_needed(1 - measured, 1 - bound, answers.images, 1 - limit, gate.confidence)
        reason = f"{said}, of which {bound:.2%} are sure; {limit:.2%} are asked for"
        if more:
            reason += f": about {more} more images would decide it"
        return Rule(**facts, outcome="inconclusive", reason=reason, more_images=more)
    return Rule(**facts, outcome="pass", reason=f"{said}; at least {limit:.2%} are asked for")


def audit_rule(gate: Gate, trial: Measured) -> Rule:
    """Whether the engine really runs in the precision that was asked for."""
    audit, limit = trial.trial.audit, gate.min_achieved
    if audit is None:
        return unmeasured("audit", limit, "the precision of the engine's layers was not audited")
    if audit.achieved is None:
        return unmeasured("audit", limit, "the engine's report names none of the model's convolutions and products")
    said = f"{audit.achieved:.0%} of the convolutions and matrix products run in {audit.asked}"
    facts = {"name": "audit", "measured": audit.achieved, "bound": audit.achieved, "limit": limit}
    method = f"read from the {audit.source}"
    if not math.isfinite(audit.achieved) or audit.achieved < limit - SLACK:
        missed = ", ".join(layer.name for layer in audit.missed[:3])
        reason = f"{said}; at least {limit:.0%} must{f' (not: {missed})' if missed else ''}"
        return Rule(**facts, outcome="fail", reason=reason, method=method)
    return Rule(**facts, outcome="pass", reason=said, method=method)


def size_rules(gate: Gate, trial: Measured) -> list[Rule]:
    """Engine size and peak memory."""
    found = []
    build, latency = trial.trial.build, trial.trial.latency
    if gate.max_engine_mib is not None:
        size = build.engine.size_bytes / MIB if build else None
        found.append(_at_most("max_engine_mib", "the engine is {:.1f} MiB", size, gate.max_engine_mib))
    if gate.max_memory_mib is not None:
        peak = latency.peak_memory_mib if latency else None
        found.append(_at_most("max_memory_mib", "peak memory is {:.1f} MiB", peak, gate.max_memory_mib))
    return found


def _at_most(name: str, text: str, measured: float | None, limit: float) -> Rule:
    if measured is None:
        return unmeasured(name, limit, f"{name.removeprefix('max_').removesuffix('_mib')} was not measured", unit="MiB")
    outcome: Outcome = "pass" if measured <= limit + SLACK else "fail"
    reason = f"{text.format(measured)}, {limit:g} MiB are allowed"
    return Rule(name=name, outcome=outcome, measured=measured, bound=measured, limit=limit, unit="MiB", reason=reason)


def unmeasured(name: str, limit: float | None, why: str, *, unit: str = "") -> Rule:
    """A rule that was not measured: never a pass."""
    return Rule(name=name, outcome="inconclusive", measured=None, limit=limit, unit=unit, reason=f"{name}: {why}")


def slower_sentence(
    candidate: str, judged: Sequence[Rule], times: tuple[float, float], high: str, hottest: Sequence[tuple[str, float]]
) -> str:
    """Why INT8 is no gain: its median against that of high precision, what else it breaks, where its time goes.

    Args:
        candidate: The INT8 candidate's name.
        judged: Its rules.
        times: Its median and that of the more precise candidate, in milliseconds.
        high: The more precise candidate's name.
        hottest: Operator kinds by share of its run time.
    """
    text = f"{candidate} is slower here ({times[0]:.3g} ms against {times[1]:.3g} ms for {high})"
    others = [rule for rule in judged if rule.name not in SPEED]
    for outcome, word in (("fail", "worse"), ("inconclusive", "undecided")):
        broken = next((rule for rule in others if rule.outcome == outcome), None)
        if broken is not None:
            text += f" and {word} ({broken.reason})"
            break
    if hottest:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in hottest[:4])
        text += f"; it spends its time in {shares}"
    return text


def worst(rules: Sequence[Rule]) -> Rule:
    """Of one rule judged for several builds, the worst: by outcome, then by how far the bound is from the limit."""
    order = {"fail": 2, "inconclusive": 1, "pass": 0}

    def badness(rule: Rule) -> tuple[int, float]:
        value = rule.bound if rule.bound is not None else rule.measured
        if value is None or rule.limit is None:
            return order[rule.outcome], math.inf
        higher_is_better = rule.name in ("speedup_over_fp32", "throughput_min", "min_agreement", "audit")
        return order[rule.outcome], rule.limit - value if higher_is_better else value - rule.limit

    return max(rules, key=badness)


def _bound_text(gate: Gate, bound: float, unit: str = "") -> str:
    return f" (at {gate.confidence:.0%} confidence at most {bound:.4g}{unit})" if gate.confidence > 0 else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
