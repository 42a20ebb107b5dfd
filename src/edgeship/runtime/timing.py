"""How long frames take in the vehicle: each part apart, deadlines counted, memory constant."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

WINDOW = 4096
"""Frames that the quantiles are taken over."""
PARTS = ("preprocess", "wait", "infer", "postprocess", "total")


class FrameTiming(NamedTuple):
    """Wall time of one frame in milliseconds. ``wait_ms``: for another thread's inference to end."""

    preprocess_ms: float
    wait_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float
    late: bool = False
    """Over the budget."""


@dataclass(frozen=True)
class Statistics:
    """Frames since the model was loaded; quantiles of wall time in milliseconds over the last ``window`` of them.

    ``p50_ms`` and the others: part of the frame (preprocess, wait, infer, postprocess, total) → milliseconds.
    """

    frames: int
    missed: int
    budget_ms: float | None
    window: int
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    max_ms: dict[str, float]


class Timekeeper:
    """Collects the times of frames from any thread."""

    def __init__(self, budget_ms: float | None) -> None:
        self._budget_ms = float("inf") if budget_ms is None else budget_ms
        self._lock = threading.Lock()
        self._budget_ns = self._budget_ms * 1e6
        self._number = itertools.count(1).__next__
        self._last: deque[tuple[int, int, int, int, int, int]] = deque(maxlen=WINDOW)
        self._missed = 0

    def note(self, start: int, ready: int, begun: int, done: int, end: int) -> bool:
        """Note one frame by its moments in nanoseconds; whether it was over the budget.

        Counting and appending are each one step of the interpreter: only a late frame takes the lock.
        """
        self._last.append((self._number(), start, ready, begun, done, end))
        if end - start <= self._budget_ns:
            return False
        with self._lock:
            self._missed += 1
        return True

    def record(self, start: int, ready: int, begun: int, done: int, end: int) -> FrameTiming:
        """Note one frame by its moments in nanoseconds, and say how long its parts took."""
        late = self.note(start, ready, begun, done, end)
        return FrameTiming(
            (ready - start) * 1e-6,
            (begun - ready) * 1e-6,
            (done - begun) * 1e-6,
            (end - done) * 1e-6,
            (end - start) * 1e-6,
            late,
        )

    def statistics(self) -> Statistics:
        """What is known so far."""
        import numpy as np

        rows = self._last.copy()
        with self._lock:
            missed = self._missed
        budget = None if self._budget_ms == float("inf") else self._budget_ms
        if not rows:
            return Statistics(0, 0, budget, 0, {}, {}, {})
        table = np.array(rows)
        frames, moments = int(table[:, 0].max()), table[:, 1:]
        values = np.column_stack([np.diff(moments, axis=1), moments[:, -1] - moments[:, 0]]) * 1e-6
        p50, p99 = np.quantile(values, (0.5, 0.99), axis=0, method="inverted_cdf").tolist()

        def named(row: list[float]) -> dict[str, float]:
            return dict(zip(PARTS, row, strict=True))

        return Statistics(
            frames, missed, budget, len(moments), named(p50), named(p99), named(values.max(axis=0).tolist())
        )
