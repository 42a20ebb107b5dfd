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
SEARCH_STEP = 16
"""mse: candidate thresholds stand this many bins apart."""
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
    zero is exact in int8 and says nothing about the threshold.
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


def _mse_bins(counts: NDArray[np.int64]) -> int:
    """The number of bins whose symmetric int8 grid of 127 steps has the least squared error on the histogram.

    The uniform noise model finds the neighbourhood; there, rounding and clipping of every bin are computed.
    """
    size = counts.size
    weights = counts.astype(np.float64)
    centres = np.arange(size) + 0.5
    candidates = np.unique(np.append(np.arange(SEARCH_STEP, size, SEARCH_STEP), size))
    steps = candidates / 127.0
    dead = np.minimum(np.ceil(steps / 2).astype(np.intp), size)
    zero, one, two = (_prefix(weights * centres**power) for power in (0, 1, 2))
    inside = (zero[candidates] - zero[np.minimum(dead, candidates)]) * steps**2 / 12 + two[dead]
    beyond = (two[-1] - two[candidates]) - 2 * candidates * (one[-1] - one[candidates])
    beyond += candidates.astype(np.float64) ** 2 * (zero[-1] - zero[candidates])
    guess = int(candidates[int(np.argmin(inside + beyond))])
    near = candidates[(candidates >= 0.8 * guess) & (candidates <= 1.25 * guess)]
    used = np.flatnonzero(counts)
    errors = [_int8_error(weights[used], centres[used], float(threshold)) for threshold in near]
    return int(near[int(np.argmin(errors))])


def _int8_error(weights: NDArray[Any], centres: NDArray[Any], threshold: float) -> float:
    """Squared error of bins on the grid ``threshold / 127 * {0..127}``."""
    step = threshold / 127.0
    rounded = np.minimum(np.rint(centres / step), 127.0)
    rounded *= step
    rounded -= centres
    np.square(rounded, out=rounded)
    return float(rounded @ weights)


def _mse_bounds(counts: NDArray[np.int64]) -> tuple[int, int]:
    """(bottom, top) in bins from zero whose uint8 grid of 255 steps has the least squared error."""
    above, below = counts[BINS:].astype(np.float64), counts[:BINS][::-1].astype(np.float64)
    total = above.sum() + below.sum()
    tops, top_costs = _clip_costs(above)
    bottoms, bottom_costs = _clip_costs(below)
    spans = (tops[None, :] + bottoms[:, None]) / 255.0
    errors = spans**2 / 12 * total + top_costs[None, :] + bottom_costs[:, None]
    errors[spans == 0] = np.inf
    bottom, top = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return -int(bottoms[bottom]), int(tops[top])


def _clip_costs(weights: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Candidate ends of one side, in bins from zero, and the squared error of what lies beyond each."""
    filled = np.flatnonzero(weights)
    if not filled.size:
        return np.zeros(1, np.intp), np.zeros(1)
    size = int(filled[-1]) + 1
    ends = np.unique(np.append(np.arange(0, size, SEARCH_STEP), size)).astype(np.intp)
    centres = np.arange(size) + 0.5
    zero, one, two = (_prefix(weights[:size] * centres**power) for power in (0, 1, 2))
    position = ends.astype(np.float64)
    costs = (two[-1] - two[ends]) - 2 * position * (one[-1] - one[ends]) + position**2 * (zero[-1] - zero[ends])
    return ends, costs


def _prefix(values: Any) -> Floats:
    """Cumulative sums with a leading zero."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
