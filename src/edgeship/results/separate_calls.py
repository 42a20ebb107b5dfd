"""How much calls that follow one another tell about a quantile: the benchmark asks before it stops, the gate after."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BLOCKS = 24
"""Blocks of successive calls, where calls that follow one another are not taken as independent."""
COARSER = {24: 1.085, 16: 1.136, 10: 1.242}
"""Numbers of blocks whose means are compared, and the square of Student's t over the normal quantile, at 95 %."""
ALIKE = 1.05
"""So many calls for one separate one, and they count as alike; independent ones seldom seem to be."""
RELIABLE = 50
"""Separate calls from which their own number is known well enough; of few calls a quarter of them."""
LOOKED = 5
"""The error of a bound from calls that are alike is divided by this: the benchmark looked at them many times, and
stops sooner where they were fast. Set by simulation (``benchmarks/clock_situations.py``)."""


def samples_needed(probability: float, confidence: float) -> int:
    """The fewest independent samples that bound a quantile at all: 299 for p99 at 95 %."""
    return math.ceil(math.log(1 - confidence) / math.log(probability))


def calls_needed(level: float, calls: int = 0) -> int:
    """Separate calls that bound a quantile at 99 % confidence: 459 for p99, 44 for p90, 7 for the median.

    Of ``calls`` calls :data:`RELIABLE` are needed at least, or a quarter where they are few.
    """
    return max(samples_needed(level, 0.99), reliable(calls))


def reliable(calls: int) -> int:
    """Separate calls among ``calls`` below which their own number is a guess."""
    return min(RELIABLE, calls // 4)


def alike(calls: int, separate: float) -> bool:
    """Whether calls that tell as much as ``separate`` independent ones resemble those before them."""
    return calls >= ALIKE * separate


def effective_samples(samples: NDArray[np.float64], probability: float) -> float:
    """Independent samples that tell as much about a quantile as these autocorrelated ones.

    n / (1 + 2 Σ ρ_k) of the indicator of exceeding the quantile; the sum ends where a pair of autocorrelations is
    no longer positive (Geyer, Statistical Science 7:473-483, 1992).
    """
    n = len(samples)
    above = (samples > np.quantile(samples, probability)).astype(np.float64)
    above -= above.mean()
    variance = float(above @ above)
    if n < 4 or variance == 0:
        return float(n)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(above, size)
    correlation = np.fft.irfft(spectrum * spectrum.conj(), size)[:n] / variance
    pairs = correlation[1 : n - 1 : 2] + correlation[2:n:2]
    ends = np.flatnonzero(pairs <= 0)
    total = float(pairs[: ends[0] if ends.size else len(pairs)].sum())
    return n / max(1.0, 1 + 2 * total)


def effective_calls(values: NDArray[np.float64], level: float) -> float:
    """Independent calls that tell as much about a quantile as these, rather too few than too many.

    That of :func:`effective_samples`. Where it says that calls are alike it may have stopped too early, so the variance
    of the means of :data:`COARSER` blocks of "slower than the quantile" is compared with that of independent calls too,
    widened because few blocks tell a variance badly (batch means: Law and Kelton, Simulation Modeling and Analysis,
    9.5.3); the fewest count.
    """
    count = len(values)
    found = effective_samples(values, level) if count else 0.0
    if count < 2 * max(COARSER) or not alike(count, found):
        return found
    above = values > np.quantile(values, level, method="inverted_cdf")
    share = float(above.mean())
    for blocks, widened in COARSER.items():
        size = count // blocks
        spread = float(above[count - size * blocks :].reshape(blocks, size).mean(axis=1).var(ddof=1))
        alone = share * (1 - share) / size
        if spread > 0:
            found = min(found, count * alone / (spread * widened))
    return found
