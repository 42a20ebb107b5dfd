"""What a rule is judged from: one build of a candidate, and what all candidates have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeship.config import Gate
from edgeship.decide.agreement import Answers
from edgeship.decide.drops import Drop, Reference
from edgeship.decide.floors import Level
from edgeship.decide.loaded_trial import Measured
from edgeship.results import Clock, Outcome, Quantiles, Rule, Turns

Kind = Literal["speed", "accuracy", "precision", "size", "state"]
"""``state``: whether there was anything to judge."""
Quantity = Literal["milliseconds", "ratio", "share", "level", "drop", "count", "plain"]
"""How measured value, bound and limit are written: ``level`` as the metric, ``drop`` in points where it is a share."""


@dataclass(frozen=True)
class Family:
    """The rules of one name, or of one name and a subject: ``max_drop.top1``.

    ``title`` says it in words, ``{}`` stands for the subject. ``setting`` is the field of :class:`edgeship.config.Gate`
    that sets the limit (default: the name). ``judge`` gives the rules of one case; None: another function gives them.
    """

    name: str
    title: str
    kind: Kind
    quantity: Quantity = "plain"
    unit: str = ""
    higher_is_better: bool = False
    setting: str = ""
    judge: Callable[[Family, Case], Iterable[Rule]] | None = None

    def rule(
        self, outcome: Outcome, reason: str, *, subject: str = "", limit: float | None = None, **facts: object
    ) -> Rule:
        """A rule of this family."""
        return Rule.model_validate(
            {"measured": None, "unit": self.unit, **facts}
            | {"name": self.named(subject), "outcome": outcome, "reason": reason, "limit": limit}
        )

    def unmeasured(self, limit: float | None, why: str, *, subject: str = "") -> Rule:
        """A rule that was not measured: never a pass."""
        return self.rule("inconclusive", f"{self.named(subject)}: {why}", subject=subject, limit=limit)

    def named(self, subject: str = "") -> str:
        """The name of its rule about a subject."""
        return f"{self.name}.{subject}" if subject else self.name

    def limit(self, gate: Gate) -> float | None:
        """The single limit that the config sets; None: it sets none."""
        value = getattr(gate, self.setting or self.name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Wanted:
    """An accuracy rule of the config: ``what`` is ``top1`` or ``recall/person``."""

    family: str
    subject: str
    what: str
    limit: float


@dataclass(frozen=True)
class Case:
    """One build of a candidate before the rules."""

    gate: Gate
    item: Measured
    clock: Clock
    fp32: Measured | None = None
    reference: Reference | None = None
    wanted: tuple[Wanted, ...] = ()
    missing: str = ""
    """Why accuracy cannot be judged; empty when it can."""
    absent: frozenset[str] = frozenset()
    """Metrics of the task that no evaluation image holds an example for."""
    drops: dict[str, Drop] = field(default_factory=dict)
    answers: Answers | None = None
    turns: Turns | None = None
    """Candidates timed turn by turn, where they were."""
    levels: dict[str, Level] = field(default_factory=dict)
    """What the metrics with a floor reach by themselves."""
    doubts: tuple[str, ...] = ()
    """Why a comparison with the reference proves nothing."""
    base: str = "reference"
    """What ``reference`` holds the records of, in a word."""
    released: Case | None = None
    """The same build beside the release in the field, whose records are then ``reference``; None: none is named."""

    def times(self, item: Measured | None = None) -> Quantiles | None:
        """The quantiles that the gate reads, of this build or another; None where they were not measured."""
        latency = (item or self.item).trial.latency
        timed = latency.timed(self.clock) if latency is not None else None
        return timed.quantiles if timed is not None else None

    def samples(self, clock: Clock, item: Measured | None = None) -> NDArray[np.float64]:
        """The latency samples by a clock, in milliseconds and in order; empty where there are none."""
        return np.asarray((item or self.item).latency.get(f"{clock}_ms", np.empty(0)), dtype=np.float64)

    @property
    def confidence(self) -> float:
        """Of the accuracy rules: the config's, or more where several attempts share its error."""
        return self.reference.confidence if self.reference is not None else self.gate.confidence

    @property
    def largest_drop(self) -> float:
        """Of all metrics and classes."""
        return max((drop.interval.estimate for drop in self.drops.values()), default=-math.inf)
