"""Whether one sample lies above another, or chance alone could have made it look so."""

from __future__ import annotations

import math
from collections.abc import Sequence

NORMAL = 1.6449
"""Standard deviations that a normal distribution exceeds in one case of twenty."""


def surely_larger(these: Sequence[float], others: Sequence[float]) -> bool:
    """Whether one sample lies above another: Wilcoxon's rank-sum test, one-sided, by its normal approximation.

    It sees order alone, so that a few values that are far too large count no more than any other.
    """
    above = sum((one > other) + 0.5 * (one == other) for one in these for other in others)
    pairs = len(these) * len(others)
    spread = math.sqrt(pairs * (len(these) + len(others) + 1) / 12)
    return above - pairs / 2 - 0.5 > NORMAL * spread
