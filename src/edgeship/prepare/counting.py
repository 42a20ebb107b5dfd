"""Counts values by histogram bin on many threads at once: numpy's way at first, a compiled loop once that pays.

numpy's ``bincount`` holds Python's lock, so that the threads of a calibration wait for one another. A loop compiled by
numba does not hold it, and takes a third of the time on one thread. It must be compiled once for each machine (about a
second) and loaded in each process, so small calibrations stay with numpy. Both give the same counts to the last one.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float32]
Loop = Callable[[Floats, np.float32, int, Counts], None]

CHUNK = 1 << 18
"""Values binned at a time by numpy. Small enough to stay in a core's cache, large enough that threads seldom hand
Python's lock to each other: with ``1 << 15`` two threads were no faster than one (2.9 ns a value), with this they are
(2.0 ns)."""
BLOCK = 2048
"""Values whose bins the compiled loop computes at a time."""
LARGEST = 1 << 31
"""Values in one call of the compiled loop: its counters have 32 bits."""
DAMAGED = (
    pickle.PickleError, ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What reading a damaged file of kept code raises, and RuntimeError where there is no place for it."""
LOAD_AFTER = 1 << 28
"""Values after which the loop is loaded: numpy has then taken about as long as that takes, so that the start costs at
most as much again, whatever is still to come."""


class Tally:
    """What the threads of one calibration know together: how much was counted, and the loop once it is there."""

    def __init__(self, load_after: int = LOAD_AFTER) -> None:
        self._left = load_after
        self._loading = threading.Lock()
        self._loop: Loop | None = None

    def loop(self, size: int) -> Loop | None:
        """The compiled loop for the next ``size`` values; None while numpy is to count. Other threads count on
        while one of them loads it."""
        self._left -= size
        if self._loop is None and self._left < 0 and self._loading.acquire(blocking=False):
            self._loop = compiled()
        return self._loop


class Scratch:
    """Buffers of one thread."""

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._buffers: tuple[Floats, NDArray[np.int32], Counts] | None = None

    def add(self, values: Floats, scale: np.float32, offset: int, counts: Counts) -> None:
        """Add to ``counts`` the bins ``floor(value * scale) + offset`` of finite values.

        Exact: ``scale`` is a power of two, and whole numbers up to 8,192 are exact in float32. (A negative subnormal
        that the product rounds to zero lands in the bin above zero.)

        Args:
            values: float32 [n], contiguous.
            offset: 0 only where no value is below zero.
            counts: int64, changed in place.
        """
        loop = self._tally.loop(values.size)
        step = CHUNK if loop is None else LARGEST
        for start in range(0, values.size, step):
            part = values[start : start + step]
            if loop is not None:
                loop(part, scale, offset, counts)
            else:
                found = self._bincount(part, scale, offset)
                counts[: found.size] += found

    def _bincount(self, values: Floats, scale: np.float32, offset: int) -> Counts:
        """Counts that end at the last bin in use. By way of int32, because float32 to int64 is slow."""
        if self._buffers is None:
            self._buffers = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int32), np.empty(CHUNK, np.int64)
        scaled, narrow, index = (buffer[: values.size] for buffer in self._buffers)
        np.multiply(values, scale, out=scaled)
        if offset:
            np.floor(scaled, out=scaled)
            np.add(scaled, np.float32(offset), out=scaled)
        np.copyto(narrow, scaled, casting="unsafe")
        np.copyto(index, narrow)
        return np.bincount(index)


@lru_cache(maxsize=1)
def compiled() -> Loop | None:
    """The loop, ready to be called; None where numba is not installed, or does not go with this numpy or its settings.

    Its code is kept where numba keeps such code, beside this file or in the user's cache. Where no folder can be
    written, or what lies there is damaged, it is compiled anew.
    """
    try:
        import numba
    except (ImportError, ValueError):
        return None
    try:
        made: Loop = numba.njit(nogil=True, cache=True)(_count)
        _warm(made)
    except DAMAGED:
        made = numba.njit(nogil=True)(_count)
        _warm(made)
    return made


def _warm(loop: Loop) -> None:
    loop(np.ones(1, np.float32), np.float32(1.0), 0, np.zeros(4, np.int64))


def _count(values: Any, scale: Any, offset: Any, counts: Any) -> None:
    """What numba compiles. Four counters a bin, because the next addition to one waits for the last: most values of an
    activation lie in a few bins. int32 first, because a negative float has no unsigned value."""
    size = len(counts)
    first, second = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
    third, fourth = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
    bins = np.empty(BLOCK, np.uint32)
    shift, one = np.float32(offset), np.uint32(1)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        for item in range(len(block)):
            bins[item] = np.uint32(np.int32(np.floor(block[item] * scale) + shift))
        whole = len(block) // 4
        for four in range(whole):
            first[bins[4 * four]] += one
            second[bins[4 * four + 1]] += one
            third[bins[4 * four + 2]] += one
            fourth[bins[4 * four + 3]] += one
        for item in range(4 * whole, len(block)):
            first[bins[item]] += one
    for item in range(size):
        counts[item] += np.int64(first[item]) + second[item] + third[item] + fourth[item]
