"""Thresholds from a histogram: minmax, percentile, entropy and mse, symmetric for int8 and asymmetric for uint8.

Sources: entropy is the Kullback-Leibler search of TensorRT's calibrator (S. Migacz, "8-bit Inference with
TensorRT", GTC 2017); percentile and mse follow H. Wu et al., "Integer Quantization for Deep Learning Inference:
Principles and Empirical Evaluation" (2020), section 5.2; the two-sided mse uses the uniform rounding noise model
(step squared over twelve) of B. Widrow and I. Kollár, "Quantization Noise" (2008).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeship.prepare.histogram import BINS, Histogram

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
LEVELS = 128
"""Magnitudes an int8 value can tell apart in TensorRT's entropy search."""
MIN_KEPT = 0.9999
"""entropy: thresholds that clip more than the rest of the magnitudes are not considered. Without this the published
search falls for low thresholds wherever a tensor is spiky or stays far from zero: few filled bins lose little by being
merged, whatever is cut off. Picked on three networks: docs/explanation/calibration.md has the figures."""
STEPS = 127
"""Steps of symmetric int8 on either side of zero."""
Floats = NDArray[np.float64]
Bounds = tuple[float, float]


def symmetric(histogram: Histogram, method: Method, percentile: float = 99.99) -> float:
    """The magnitude that becomes 127 in int8. Zero only for a tensor that was always zero."""
    amax = histogram.amax
    if amax == 0.0 or method == "minmax":
        return amax
    counts = histogram.magnitudes()
    counts = counts[: int(np.flatnonzero(counts)[-1]) + 1]
    if method == "percentile":
        bins = _percentile_bin(counts, percentile / 100.0) + 1
    elif method == "entropy":
        bins = _entropy_bins(counts)
    else:
        bins = _mse_bins(counts)
    return min(bins * histogram.width, amax)


def asymmetric(histogram: Histogram, method: Method, percentile: float = 99.99, amax: float | None = None) -> Bounds:
    """(low, high) of uint8; always holds zero, as quantized arithmetic needs an exact zero.

    ``amax``, where it is known already, is the symmetric threshold by entropy.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low >= high:
        return 0.0, 0.0
    if method == "minmax":
        return low, high
    if method == "entropy":
        amax = symmetric(histogram, "entropy") if amax is None else amax
        return max(low, -amax), min(high, amax)
    counts = histogram.signed()
    if method == "percentile":
        tail = (1.0 - percentile / 100.0) / 2.0
        top = _percentile_bin(counts, 1.0 - tail) + 1 - BINS
        bottom = -(_percentile_bin(counts[::-1], 1.0 - tail) + 1 - BINS)
    else:
        bottom, top = _mse_bounds(counts)
    return max(low, min(0.0, bottom * histogram.width)), min(high, max(0.0, top * histogram.width))


def clipped_share(histogram: Histogram, low: float, high: float) -> float:
    """Share of the values whose bin lies beyond ``[low, high]``."""
    if histogram.exponent is None:
        return 0.0
    counts = histogram.signed()
    edges = (np.arange(2 * BINS) - BINS) * histogram.width
    outside = (edges >= high) | (edges + histogram.width <= low)
    return float(counts[outside].sum() / max(counts.sum(), 1))


def _percentile_bin(counts: NDArray[np.int64], share: float) -> int:
    """The first bin with which at least ``share`` of all counts are reached."""
    reached = np.cumsum(counts)
    return min(int(np.searchsorted(reached, share * reached[-1], side="left")), counts.size - 1)


# --- entropy -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _levels(bins: int) -> NDArray[np.intp]:
    """(bins + 1, LEVELS + 1): for each number of bins kept, where each of the LEVELS begins and ends."""
    return (np.arange(LEVELS + 1)[None, :] * np.arange(bins + 1)[:, None] // LEVELS).astype(np.intp)


def _entropy_bins(counts: NDArray[np.int64]) -> int:
    """How many bins to keep so that the quantized distribution loses the least information.

    For each candidate ``i`` the reference P is the first ``i`` bins with everything beyond added to the last one;
    Q is the first ``i`` bins merged into 128 levels, each level spread evenly over its non-empty bins. KL(P, Q) is
    summed by prefix sums, so all candidates cost one array operation. The bin at zero takes its neighbour's count:
    zero is exact in int8 and does not depend on the threshold.
    """
    weights = _pairs(counts).astype(np.float64)
    if weights.size <= LEVELS:
        return int(counts.size)
    weights[0] = weights[1]
    mass, filled = _prefix(weights), _prefix(weights > 0)
    total = mass[-1]
    kept = np.arange(LEVELS, weights.size + 1)
    kept = kept[mass[kept] >= MIN_KEPT * total]
    outliers = total - mass[kept]
    last = weights[kept - 1]
    edges = _levels(BINS // 2)[kept]
    level_mass, level_filled = np.diff(mass[edges], axis=1), np.diff(filled[edges], axis=1)
    log_level = np.log(np.where(level_mass > 0, level_mass, 1.0)) - np.log(np.maximum(level_filled, 1.0))
    p_log_p = _prefix(_x_log_x(weights))[kept - 1] + _x_log_x(last + outliers)
    p_log_q = np.einsum("ij,ij->i", level_mass, log_level) + outliers * log_level[:, -1]
    divergence = (p_log_p - p_log_q) / total - np.log(total) + np.log(mass[kept])
    divergence[(last == 0) & (outliers > 0)] = np.inf
    return min(2 * int(kept[int(np.argmin(divergence))]), int(counts.size))


def _pairs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Neighbouring bins added: 128 levels want about 2,048 bins, as in the published search."""
    even = np.append(counts, 0) if counts.size % 2 else counts
    added: NDArray[np.int64] = even.reshape(-1, 2).sum(axis=1)
    return added


def _x_log_x(values: Floats) -> Floats:
    """``x log x``, 0 at 0."""
    result: Floats = values * np.log(np.where(values > 0, values, 1.0))
    return result


# --- mse -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _rounding_edges() -> NDArray[np.intp]:
    """(BINS + 1, STEPS): for each threshold in bins, the first bin whose centre rounds to 1, 2, … STEPS."""
    middles = np.arange(1, STEPS + 1) - 0.5
    return np.ceil(np.arange(BINS + 1)[:, None] * (middles / STEPS)[None, :] - 0.5).clip(min=0).astype(np.intp)


def _mse_bins(counts: NDArray[np.int64]) -> int:
    """The number of bins whose symmetric int8 grid of 127 steps has the least squared error on the histogram.

    Every number of bins is tried. With step ``s`` and the values ``c`` rounded to ``k(c)``, the error is the sum of
    ``c² - 2 s k c + s² k²``. ``k`` is how many of the edges lie at or below ``c``, so ``sum(k c)`` is the sum over
    the edges of what lies beyond each, and ``k²`` adds ``2 k - 1`` at the edge to ``k``: prefix sums give both.
    """
    weights = counts.astype(np.float64)
    centres = np.arange(counts.size) + 0.5
    edges = _rounding_edges()[1 : counts.size + 1]
    zero, one = _prefix(weights), _prefix(weights * centres)
    steps = np.arange(1, counts.size + 1) / STEPS
    linear = (one[-1] - one)[edges].sum(axis=1)
    square = (zero[-1] - zero)[edges] @ (2.0 * np.arange(1, STEPS + 1) - 1.0)
    return 1 + int(np.argmin(steps**2 * square - 2.0 * steps * linear))


def _mse_bounds(counts: NDArray[np.int64]) -> tuple[int, int]:
    """(bottom, top) in bins from zero whose uint8 grid of 255 steps has the least squared error.

    Rounding is uniform noise, but none in the two bins at zero, which is exact. That error is convex in both ends:
    for every top the best bottom is where moving on first costs more rounding than it saves clipping.
    """
    above, below = counts[BINS:].astype(np.float64), counts[:BINS][::-1].astype(np.float64)
    rounding = max(above[1:].sum() + below[1:].sum(), 1.0) / (12 * 255.0**2)
    top_costs, bottom_costs = _clip_costs(above), _clip_costs(below)
    tops, bottoms = np.arange(top_costs.size), np.arange(bottom_costs.size)
    gain = -np.diff(bottom_costs) / rounding - 2.0 * bottoms[:-1] - 1.0
    best = np.searchsorted(-gain, -2.0 * tops)
    errors = (tops + best) ** 2 * rounding + top_costs + bottom_costs[best]
    errors[tops + best == 0] = np.inf
    top = int(np.argmin(errors))
    return -int(best[top]), top


def _clip_costs(weights: Floats) -> Floats:
    """Squared error of what lies beyond each end of one side, 0, 1, 2, … bins from zero up to the last one filled."""
    filled = np.flatnonzero(weights)
    size = int(filled[-1]) + 1 if filled.size else 0
    centres = np.arange(size) + 0.5
    zero, one, two = (_prefix(weights[:size] * centres**power) for power in (0, 1, 2))
    ends = np.arange(size + 1, dtype=np.float64)
    costs: Floats = (two[-1] - two) - 2 * ends * (one[-1] - one) + ends**2 * (zero[-1] - zero)
    return costs


def _prefix(values: Any) -> Floats:
    """Cumulative sums with a leading zero."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
