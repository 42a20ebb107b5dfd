"""Counting by bin: numpy and the compiled loop give the same counts, on one thread and on several."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgeship.prepare import counting
from edgeship.prepare.counting import CHUNK, FOLD, WIDTH, Loop, Scratch
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
        "fewer than a vector": made[: WIDTH - 1],
        "edges of bins": np.round(made * 4) / 4,
    }[kind]


KINDS = (
    "normal", "relu", "negative", "subnormal", "zeros of both signs", "one value", "fewer than a vector",
    "edges of bins",
)  # fmt: skip


def counted(data: np.ndarray, loop: Loop | None) -> Histogram:
    found = Histogram()
    found.add(data, Scratch(loop))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_loop_counts_as_numpy_does(kind: str) -> None:
    loop = counting.compiled()
    assert loop is not None
    slow, fast = counted(values(kind), None), counted(values(kind), loop)
    assert (slow.low, slow.high, slow.exponent) == (fast.low, fast.high, fast.exponent)
    np.testing.assert_array_equal(slow.counts, fast.counts)
    assert fast.total == values(kind).size


def test_numpy_counts_more_than_one_chunk() -> None:
    data = values("normal", 2 * CHUNK + 17)
    np.testing.assert_array_equal(counted(data, None).counts, counted(data, counting.compiled()).counts)


def test_what_one_call_counted_is_not_counted_again_by_the_next() -> None:
    found, scratch = Histogram(), Scratch(counting.compiled())
    for kind in KINDS:
        found.add(values(kind, 5000), scratch)
    assert found.total == sum(values(kind, 5000).size for kind in KINDS)
    merged = Histogram()
    for kind in KINDS:
        merged.merge(counted(values(kind, 5000), None))
    np.testing.assert_array_equal(found.counts, merged.counts)


def test_threads_share_the_loop() -> None:
    data, loop = values("relu", 5000), counting.compiled()
    own = [Histogram() for _ in range(8)]

    def work(found: Histogram) -> None:
        scratch = Scratch(loop)
        for _ in range(4):
            found.add(data, scratch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, own))
    merged = Histogram()
    for found in own:
        merged.merge(found)
    np.testing.assert_array_equal(merged.counts, 32 * counted(data, None).counts)


def test_without_llvmlite_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    counting.compiled.cache_clear()
    try:
        assert counting.compiled() is None
    finally:
        counting.compiled.cache_clear()


def test_the_offset_reaches_the_last_bin() -> None:
    for loop in (None, counting.compiled()):
        counts = np.zeros(2 * BINS, np.int64)
        Scratch(loop).add(np.array([-1.0, 0.99999994], np.float32), np.float32(BINS), BINS, counts)
        assert np.flatnonzero(counts).tolist() == [0, 2 * BINS - 1]
    assert BINS % FOLD == 0  # what the loop folds at a time


def test_a_calibration_starts_no_numba() -> None:
    """Its start takes longer than many a calibration; the loop is handed to LLVM without it."""
    asked = (
        "import sys; from edgeship.prepare.counting import compiled; print(compiled() is None, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
