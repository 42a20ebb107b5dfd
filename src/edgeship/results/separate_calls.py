"""How much calls that follow one another tell about a quantile: the benchmark asks before it stops, the gate after."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BLOCKS = 24
"""Blocks of successive calls, where calls that follow one another are not taken as independent."""


def samples_needed(probability: float, confidence: float) -> int:
    """The fewest independent samples that bound a quantile at all: 299 for p99 at 95 %."""
    return math.ceil(math.log(1 - confidence) / math.log(probability))


def calls_needed(level: float) -> int:
    """Independent calls that bound a quantile at 99 % confidence: 459 for p99, 44 for p90, 7 for the median."""
    return samples_needed(level, 0.99)


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
    """The fewer of two answers to how many independent calls tell as much about a quantile as these.

    One is :func:`effective_samples`, by which the gate forms its bound. The other compares the variance of block means
    of "slower than the quantile" with that of independent calls (batch means: Law and Kelton, Simulation Modeling and
    Analysis, 9.5.3).
    """
    count = len(values)
    size = count // BLOCKS
    correlated = math.floor(effective_samples(values, level)) if count else 0
    if size < 2:
        return float(correlated)
    above = (values > np.quantile(values, level, method="inverted_cdf"))[: size * BLOCKS]
    share = float(above.mean())
    alone = share * (1 - share) / size
    spread = float(above.reshape(BLOCKS, size).mean(axis=1).var(ddof=1))
    means = count / max(1.0, spread / alone) if alone > 0 else float(count)
    return min(float(correlated), means)
