"""Streaming histograms of activations: one pass, no stored values, a range that grows as data arrives.

The range is always ``[-2**k, 2**k)`` cut into ``2 * BINS`` equal bins, so a wider range is reached by adding
neighbouring bins and the result does not depend on the order of the frames. Zero is a bin boundary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeship.prepare.counting import Counts, Scratch

BINS = 4096
"""Bins on each side of zero. The largest magnitude always lies in the upper half of its side."""
MIN_EXPONENT = -100
"""The narrowest range is ``±2**-100``: beyond, the number of bins in 1.0 does not fit float32."""


class NotFinite(ValueError):
    """An activation holds NaN or infinity."""


class Histogram:
    """Counts of one tensor's values, with their exact minimum and maximum.

    ``counts[i]`` counts the values in ``[(i - BINS) * width, (i + 1 - BINS) * width)``.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * BINS, np.int64)
        self.exponent: int | None = None
        self.low = math.inf
        self.high = -math.inf
        self.zeros = 0

    @property
    def width(self) -> float:
        """Width of a bin in the tensor's own units."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent) / BINS

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum()) + self.zeros

    @property
    def amax(self) -> float:
        """The exact largest magnitude; 0 for an empty or all-zero tensor."""
        return max(-self.low, self.high, 0.0) if self.low <= self.high else 0.0

    def add(self, values: NDArray[Any], scratch: Scratch) -> None:
        """Count a batch of float values of any shape.

        Raises:
            NotFinite: A value is NaN or infinite; nothing of the batch was counted.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NotFinite
        self.low, self.high = min(self.low, low), max(self.high, high)
        amax = max(-low, high)
        if amax == 0.0:
            self.zeros += flat.size
            return
        self.grow(exponent_of(amax))
        scale = np.float32(1.0 / self.width)
        offset = 0 if low >= 0.0 else BINS
        counts = self.counts[BINS:] if offset == 0 else self.counts
        scratch.add(flat, scale, offset, counts)

    def grow(self, exponent: int) -> None:
        """Widen the range to ``[-2**exponent, 2**exponent)`` by adding neighbouring bins."""
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            folded = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS + BINS // 2] = folded
            self.exponent += 1

    def merge(self, other: Histogram) -> None:
        """Add another histogram of the same tensor."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.zeros += other.zeros
        if other.exponent is None:
            return
        self.grow(other.exponent)
        source = other.copy()
        source.grow(self.exponent if self.exponent is not None else other.exponent)
        self.counts += source.counts

    def copy(self) -> Histogram:
        """An independent copy."""
        twin = Histogram()
        twin.counts = self.counts.copy()
        twin.exponent, twin.low, twin.high, twin.zeros = self.exponent, self.low, self.high, self.zeros
        return twin

    def signed(self) -> Counts:
        """Counts of all bins, the all-zero batches in the first bin above zero."""
        counts = self.counts.copy()
        counts[BINS] += self.zeros
        return counts

    def magnitudes(self) -> Counts:
        """Counts of ``|x|`` in bins ``[i * width, (i + 1) * width)``."""
        counts = self.signed()
        folded: Counts = counts[BINS:] + counts[:BINS][::-1]
        return folded


Histograms = dict[str, Histogram]
"""Tensor name → its histogram."""


def exponent_of(amax: float) -> int:
    """The range ``±2**k`` of a histogram that holds values up to ``amax``."""
    return max(math.frexp(amax)[1], MIN_EXPONENT)
