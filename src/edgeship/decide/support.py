"""What the images cannot rule out: a failure so rare that none of them shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeship.decide.distributions import clopper_pearson
from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.units import Units
from edgeship.metrics import losses

FAILED = 0.5
"""A unit failed where it lost at least so much of what it held."""


@dataclass(frozen=True)
class Support:
    """The units that can tell about a metric, or about one class of a mean.

    ``units`` hold an example; ``failed`` of them lost at least half of it; one that fails costs the metric ``cost``
    times its share of the units. ``name`` is the class of a mean that it is about; empty: the metric itself.
    """

    units: int
    failed: int
    cost: float = 1.0
    name: str = ""

    def margin(self, confidence: float) -> float:
        """What an unseen failure can cost beyond the estimate; 0 where a failure was seen and so is in the estimate.

        No failure among n units leaves a rate of 1 - (1 - confidence)^(1/n) possible (Clopper and Pearson 1934).
        """
        if self.units == 0:
            return self.cost
        return 0.0 if self.failed else self.cost * clopper_pearson(0, self.units, confidence)[1]


def supports(reference: Arrays, candidate: Arrays, name: str, units: Units) -> tuple[Support, ...]:
    """The support of a metric's drop: of itself and, for a mean over classes, of each class that the images hold."""
    cost = losses.scale_of(reference, candidate, name)[1]
    return _of_parts(reference, name, cost, units, lambda part: losses.lost(reference, candidate, part))


def own_supports(records: Arrays, name: str, units: Units) -> tuple[Support, ...]:
    """The support of a metric's own level, as :func:`supports`: a unit failed where half of what it holds is wrong."""
    cost = losses.scale_of(records, records, name)[1]
    return _of_parts(records, name, cost, units, lambda part: losses.missed(records, part))


def _of_parts(
    records: Arrays, name: str, cost: float, units: Units, gone: Callable[[str], NDArray[np.float64]]
) -> tuple[Support, ...]:
    def support(part: str) -> tuple[int, int]:
        held, lost = units.sums(losses.held(records, part)), units.sums(gone(part))
        holds = held > 0
        return int(holds.sum()), int((lost[holds] >= FAILED * held[holds]).sum())

    found = [Support(*support(name), cost)]
    present = [(part, counts) for part in losses.classes_of(records, name) if (counts := support(part))[0]]
    return (*found, *(Support(*counts, cost / len(present), part.partition("/")[2]) for part, counts in present))


def widest(found: tuple[Support, ...], confidence: float) -> Support:
    """The support that leaves most possible."""
    return max(found, key=lambda item: item.margin(confidence))
