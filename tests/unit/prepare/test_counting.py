"""Counting by bin: numpy and the compiled loop give the same counts, whichever thread loads the loop, and when."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgeship.prepare import counting
from edgeship.prepare.counting import CHUNK, Scratch, Tally
from edgeship.prepare.histogram import BINS, Histogram


def values(kind: str, size: int = 70_001) -> np.ndarray:
    made = np.random.default_rng(5).standard_normal(size).astype(np.float32)
    return {
        "normal": made,
        "relu": np.maximum(made, 0),
        "negative": np.minimum(made, 0),
        "subnormal": made * np.float32(1e-39),
        "zeros of both signs": np.where(made > 1, np.float32(1), np.copysign(np.float32(0), made)),
        "one value": made[:1],
        "edges of bins": np.round(made * 4) / 4,
    }[kind]


def counted(data: np.ndarray, tally: Tally) -> Histogram:
    found = Histogram()
    found.add(data, Scratch(tally))
    return found


@pytest.mark.parametrize(
    "kind", ["normal", "relu", "negative", "subnormal", "zeros of both signs", "one value", "edges of bins"]
)
def test_the_compiled_loop_counts_as_numpy_does(kind: str) -> None:
    assert counting.compiled() is not None
    slow, fast = (counted(values(kind), Tally(load_after)) for load_after in (10**9, 0))
    assert (slow.low, slow.high, slow.exponent) == (fast.low, fast.high, fast.exponent)
    np.testing.assert_array_equal(slow.counts, fast.counts)
    assert fast.total == values(kind).size


def test_numpy_counts_more_than_one_chunk() -> None:
    data = values("normal", 2 * CHUNK + 17)
    np.testing.assert_array_equal(counted(data, Tally(10**9)).counts, counted(data, Tally(0)).counts)


def test_a_calibration_turns_to_the_loop_once_enough_was_counted_and_the_counts_stay_right() -> None:
    data, tally = values("normal", 1000), Tally(load_after=2500)
    found, scratch = Histogram(), Scratch(tally)
    with_loop = []
    for _ in range(5):
        found.add(data, scratch)
        with_loop.append(tally.loop(0) is not None)
    assert with_loop == [False, False, True, True, True]
    np.testing.assert_array_equal(found.counts, 5 * counted(data, Tally(10**9)).counts)


def test_threads_share_one_tally() -> None:
    data, tally = values("relu", 5000), Tally(load_after=20_000)
    own = [Histogram() for _ in range(8)]

    def work(found: Histogram) -> None:
        scratch = Scratch(tally)
        for _ in range(4):
            found.add(data, scratch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, own))
    merged = Histogram()
    for found in own:
        merged.merge(found)
    np.testing.assert_array_equal(merged.counts, 32 * counted(data, Tally(10**9)).counts)


def test_without_numba_numpy_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    counting.compiled.cache_clear()
    try:
        data, tally = values("normal"), Tally(0)
        np.testing.assert_array_equal(counted(data, tally).counts, counted(data, Tally(10**9)).counts)
        assert tally.loop(0) is None
    finally:
        counting.compiled.cache_clear()


def test_the_offset_reaches_the_last_bin() -> None:
    counts = np.zeros(2 * BINS, np.int64)
    Scratch(Tally(0)).add(np.array([-1.0, 0.99999994], np.float32), np.float32(BINS), BINS, counts)
    assert np.flatnonzero(counts).tolist() == [0, 2 * BINS - 1]


def test_damaged_kept_code_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import config  # type: ignore[import-not-found]

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    try:
        counting.compiled.cache_clear()
        assert counting.compiled() is not None
        (index,) = tmp_path.rglob("*.nbi")
        assert list(index.parent.glob("*.nbc"))
        index.write_bytes(b"garbage")
        counting.compiled.cache_clear()
        data = values("normal", 5000)
        np.testing.assert_array_equal(counted(data, Tally(0)).counts, counted(data, Tally(10**9)).counts)
    finally:
        counting.compiled.cache_clear()
