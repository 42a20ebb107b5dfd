"""Every family of rules: its name, its title, its unit, its direction, and the function that judges it.

A new rule is one entry here, one function in :mod:`edgeship.decide.rules`, one field of ``config.Gate``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

from edgeship.config import Gate
from edgeship.decide import budget_rules, rules
from edgeship.decide.case import Family, Kind
from edgeship.results import Outcome, Rule

AUDIT = "audit"
MAX_DROP = "max_drop"
CRITICAL = "critical"
BASELINE = "baseline"
P50 = "latency_p50_ms"
P90 = "latency_p90_ms"
P99 = "latency_p99_ms"
AGREEMENT = "min_agreement"
TRIAL = "trial"
REFERENCE = "reference"
MIN = "min"
MAX = "max"
CRITICAL_MIN = "critical_min"
EMPTY = "gate"
REBUILDS = "rebuilds"
SEQUENCE = "sequence"

_FAMILIES = (
    Family(TRIAL, "Trial", "state"),
    Family(
        AUDIT, "Achieved precision", "precision", "share", higher_is_better=True, setting="min_achieved",
        judge=rules.audit,
    ),
    Family("run", "Run", "state", judge=rules.runnable),
    Family(P50, "Latency p50", "speed", "milliseconds", "ms", judge=partial(rules.latency, level=0.5)),
    Family(P90, "Latency p90", "speed", "milliseconds", "ms", judge=partial(rules.latency, level=0.9)),
    Family(P99, "Latency p99", "speed", "milliseconds", "ms", judge=partial(rules.latency, level=0.99)),
    Family(
        "speedup_over_fp32", "Speed-up over fp32", "speed", "ratio", "x", higher_is_better=True, judge=rules.speedup
    ),
    Family(
        "throughput_min", "Throughput", "speed", unit="images/s", higher_is_better=True, judge=rules.throughput
    ),
    Family("frame_p99_ms", "Whole frame p99", "speed", "milliseconds", "ms", judge=budget_rules.frame),
    Family("fps", "Frame rate, p99 of a frame", "speed", "milliseconds", "ms", judge=budget_rules.rate),
    Family("load_ms", "Cold start", "speed", "milliseconds", "ms", judge=budget_rules.start),
    Family("energy_mj_per_frame", "Energy a frame", "speed", unit="mJ", judge=budget_rules.energy),
    Family("power_w", "Power under load", "speed", unit="W", judge=budget_rules.power),
    Family(REFERENCE, "The reference", "state", judge=rules.reference),
    Family(MIN, "{} by itself", "accuracy", "level", higher_is_better=True, judge=rules.floors),
    Family(MAX, "{} by itself", "accuracy", "level", judge=rules.floors),
    Family(CRITICAL_MIN, "Critical class {} by itself", "accuracy", "level", higher_is_better=True, judge=rules.floors),
    Family(MAX_DROP, "Drop of {}", "accuracy", "drop", judge=rules.drops),
    Family(CRITICAL, "Critical class {}", "accuracy", "drop", judge=rules.drops),
    Family(BASELINE, "No worse than the release: {}", "accuracy", "drop", judge=rules.release),
    Family(
        AGREEMENT, "Agreement with the reference", "accuracy", "share", higher_is_better=True, judge=rules.agreement
    ),
    Family("max_engine_mib", "Engine size", "size", unit="MiB", judge=rules.engine_size),
    Family("max_memory_mib", "Peak memory", "size", unit="MiB", judge=rules.memory),
    Family(EMPTY, "Rules", "state"),
    Family(SEQUENCE, "Choice among candidates", "accuracy"),
    Family(REBUILDS, "Builds of the engine", "state", "count", higher_is_better=True),
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}
"""By name, in the order in which a candidate's rules are listed."""
SINGLE = frozenset(("state", "precision"))
"""Kinds that are judged whether the config names them or not."""


def of(name: str) -> Family:
    """The family of a rule by the rule's name; an unknown one (of another version) is plain."""
    head, _, subject = name.partition(".")
    known = FAMILIES.get(head)
    if known is not None:
        return known
    words = head.replace("_", " ").capitalize()
    return Family(head, f"{words} {{}}" if subject else words, "state")


def subject_of(name: str) -> str:
    """What a rule is about: ``top1`` for ``max_drop.top1``; empty where it has no subject."""
    return name.partition(".")[2]


def of_kind(judged: Iterable[Rule], *kinds: Kind) -> list[Rule]:
    """The rules of some kinds."""
    return [rule for rule in judged if of(rule.name).kind in kinds]


def accuracy_of(judged: Iterable[Rule]) -> Outcome:
    """The outcome of everything but speed: drops, critical classes, agreement, audit, and that the trial ran."""
    return outcome_of(rule for rule in judged if of(rule.name).kind != "speed")


def outcome_of(judged: Iterable[Rule]) -> Outcome:
    """One fails: fail; else one is undecided: inconclusive; else pass."""
    outcomes = {rule.outcome for rule in judged}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def without(gate: Gate, *kinds: Kind) -> Gate:
    """The gate without the limits of some kinds of rules, each build judged by itself."""
    fields = type(gate).model_fields
    named = {family.setting or family.name for family in FAMILIES.values() if family.kind in kinds and family.judge}
    off = {name: None for name in named if name in fields and fields[name].default is None}
    if "precision" in kinds:
        off["min_achieved"] = 0.0  # type: ignore[assignment]
    return gate.model_copy(update={**off, REBUILDS: 1})


def sets_a_rule(gate: Gate) -> bool:
    """Whether the config asks for anything beside what is always judged."""
    families = [family for family in FAMILIES.values() if family.judge is not None and family.kind not in SINGLE]
    return any(getattr(gate, family.setting or family.name, None) not in (None, {}) for family in families)


def worst(found: Sequence[Rule]) -> Rule:
    """Of one rule judged for several builds, the worst: by outcome, then by how far the bound is from the limit."""
    order = {"fail": 2, "inconclusive": 1, "pass": 0}

    def badness(rule: Rule) -> tuple[int, float]:
        value = rule.bound if rule.bound is not None else rule.measured
        if value is None or rule.limit is None:
            return order[rule.outcome], math.inf
        higher_is_better = of(rule.name).higher_is_better
        return order[rule.outcome], rule.limit - value if higher_is_better else value - rule.limit

    return max(found, key=badness)
