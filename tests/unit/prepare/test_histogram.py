"""Histograms and thresholds against exact and slow computations on the real activations' kinds of distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeship.prepare import thresholds
from edgeship.prepare.counting import Scratch
from edgeship.prepare.histogram import BINS, Histogram, NotFinite


def histogram_of(*batches: np.ndarray) -> Histogram:
    found = Histogram()
    for batch in batches:
        found.add(batch, Scratch())
    return found


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    normal = rng.standard_normal(200_000).astype(np.float32)
    return {
        "relu": np.maximum(normal, 0) * 3,
        "normal": normal * 0.7 + 0.1,
        "laplace": rng.laplace(size=200_000).astype(np.float32),
        "silu": normal / (1 + np.exp(-normal)) * 4,
        "outlier": np.append(normal, np.float32(40.0)),
        "far from zero": (rng.random(50_000) * 0.3 + 0.1).astype(np.float32),
    }


KINDS = sorted(distributions())


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_exact_and_the_range_is_the_datas(kind: str) -> None:
    data = distributions()[kind]
    found = histogram_of(*np.array_split(data, 7))
    edges = (np.arange(2 * BINS + 1) - BINS) * found.width
    exact, _ = np.histogram(data, edges)
    assert (found.low, found.high) == (float(data.min()), float(data.max()))
    assert found.total == data.size
    np.testing.assert_array_equal(found.signed(), exact)
    assert BINS / 2 <= found.amax / found.width <= BINS


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=2, max_size=60))
def test_order_and_split_do_not_matter(values: list[float]) -> None:
    data = np.array(values, np.float32)
    shuffled = data.copy()
    np.random.default_rng(len(values)).shuffle(shuffled)
    one = histogram_of(data)
    other = histogram_of(*[part for part in np.array_split(shuffled, 5) if part.size])
    split = histogram_of(data[: len(data) // 2])
    split.merge(histogram_of(data[len(data) // 2 :]))
    for twin in (other, split):
        assert (twin.low, twin.high, twin.exponent) == (one.low, one.high, one.exponent)
        np.testing.assert_array_equal(twin.signed(), one.signed())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_and_not_counted(bad: float) -> None:
    found = histogram_of(np.ones(4, np.float32))
    with pytest.raises(NotFinite):
        found.add(np.array([1.0, bad], np.float32), Scratch())
    assert found.total == 4


@pytest.mark.parametrize("kind", KINDS)
def test_minmax_is_exact(kind: str) -> None:
    data = distributions()[kind]
    found = histogram_of(data)
    assert thresholds.symmetric(found, "minmax") == float(np.abs(data).max())
    assert thresholds.asymmetric(found, "minmax") == (min(0.0, float(data.min())), max(0.0, float(data.max())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_is_within_one_bin_of_the_sorted_data(kind: str, percentile: float) -> None:
    data = distributions()[kind]
    found = histogram_of(data)
    magnitudes = np.sort(np.abs(data))
    exact = float(magnitudes[math.ceil(percentile / 100 * data.size) - 1])
    assert abs(thresholds.symmetric(found, "percentile", percentile) - exact) <= found.width
    low, high = thresholds.asymmetric(found, "percentile", percentile)
    tail = (1 - percentile / 100) / 2
    ordered = np.sort(data)
    exact_high = max(0.0, float(ordered[math.ceil((1 - tail) * data.size) - 1]))
    exact_low = min(0.0, float(ordered[data.size - math.ceil((1 - tail) * data.size)]))
    assert abs(high - exact_high) <= found.width
    assert abs(low - exact_low) <= found.width


def int8_error(data: np.ndarray, threshold: float) -> float:
    """Mean squared error of symmetric int8 on the values themselves."""
    step = threshold / 127
    wide = data.astype(np.float64)
    return float(np.square(np.clip(np.rint(wide / step), -127, 127) * step - wide).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_within_one_bin_of_the_exact_search(kind: str) -> None:
    """Thresholds judged offline on the values themselves instead of on bins: every eighth bin edge, and every one near
    ours.

    Neighbouring thresholds can differ by less than the bins resolve; then ours may be another one, and must be as good
    on the values to a thousandth.
    """
    data = distributions()[kind][:60_000] if kind != "outlier" else distributions()[kind][-60_000:]
    found = histogram_of(data)
    ours = thresholds.symmetric(found, "mse")
    far = np.arange(8 * found.width, found.amax, 8 * found.width)
    near = ours + found.width * np.arange(-24, 25)
    candidates = [*far, *near[near < found.amax], found.amax]
    errors = [int8_error(data, threshold) for threshold in candidates]
    best = candidates[int(np.argmin(errors))]
    assert abs(ours - best) <= found.width or int8_error(data, ours) <= min(errors) * 1.001


def uint8_error(data: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of asymmetric uint8 on the values themselves."""
    step = (high - low) / 255
    zero = np.rint(-low / step)
    wide = data.astype(np.float64)
    return float(np.square((np.clip(np.rint(wide / step) + zero, 0, 255) - zero) * step - wide).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_two_sided_mse_is_within_a_tenth_of_the_best_there_is(kind: str) -> None:
    """Its noise model against a search over pairs of ends, each judged on the values: less than half a decibel."""
    data = distributions()[kind][-20_000:]
    found = histogram_of(data)
    low, high = min(0.0, float(data.min())), max(0.0, float(data.max()))
    shares = np.arange(1, 41) / 40
    errors = [
        uint8_error(data, low * below, high * above)
        for below in (shares if low < 0 else [0.0])
        for above in (shares if high > 0 else [0.0])
    ]
    assert uint8_error(data, *thresholds.asymmetric(found, "mse")) <= min(errors) * 1.1


def slow_entropy(data: np.ndarray, found: Histogram) -> float:
    """Migacz's search, written with loops from the slides, on the values themselves."""
    bins = int(np.flatnonzero(found.magnitudes())[-1]) + 1
    size = -(-bins // 2)
    width = 2 * found.width
    counts, _ = np.histogram(np.abs(data), np.arange(size + 1) * width)
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    best, kept = math.inf, size
    for i in range(thresholds.LEVELS, size + 1):
        if counts[:i].sum() < thresholds.MIN_KEPT * counts.sum():
            continue
        reference = counts[:i].copy()
        reference[-1] += counts[i:].sum()
        quantized = np.zeros(i)
        for level in range(thresholds.LEVELS):
            start, stop = level * i // thresholds.LEVELS, (level + 1) * i // thresholds.LEVELS
            filled = counts[start:stop] > 0
            if filled.any():
                quantized[start:stop][filled] = counts[start:stop].sum() / filled.sum()
        p, q = reference / reference.sum(), quantized / quantized.sum()
        used = p > 0
        divergence = math.inf if (q[used] == 0).any() else float((p[used] * np.log(p[used] / q[used])).sum())
        if divergence < best:
            best, kept = divergence, i
    return min(kept * width, found.amax)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_within_one_bin_of_the_slow_search(kind: str) -> None:
    data = distributions()[kind]
    found = histogram_of(data)
    assert abs(thresholds.symmetric(found, "entropy") - slow_entropy(data, found)) <= found.width


def test_an_all_zero_tensor_has_no_range() -> None:
    found = histogram_of(np.zeros((2, 5), np.float32))
    assert found.total == 10
    for method in thresholds.METHODS:
        assert thresholds.symmetric(found, method) == 0.0
        assert thresholds.asymmetric(found, method) == (0.0, 0.0)


@pytest.mark.parametrize("value", [2.5, -0.75])
def test_a_constant_tensor_is_represented(value: float) -> None:
    found = histogram_of(np.full(1000, value, np.float32))
    for method in thresholds.METHODS:
        assert thresholds.symmetric(found, method) == pytest.approx(abs(value), rel=1e-2)
        low, high = thresholds.asymmetric(found, method)
        assert low <= min(0.0, value) * 0.99
        assert high >= max(0.0, value) * 0.99


def test_clipped_share_counts_what_lies_beyond() -> None:
    data = np.linspace(-1, 1, 10_001, dtype=np.float32)
    assert thresholds.clipped_share(histogram_of(data), -0.5, 0.75) == pytest.approx(0.375, abs=0.002)
