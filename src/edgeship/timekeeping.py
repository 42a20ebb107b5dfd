"""How long frames take in the vehicle: each part apart, deadlines counted, memory constant."""

from __future__ import annotations

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
        self._last: deque[FrameTiming] = deque(maxlen=WINDOW)
        self._frames = 0
        self._missed = 0

    def record(self, start: int, ready: int, begun: int, done: int, end: int) -> FrameTiming:
        """Note one frame by its moments in nanoseconds."""
        total = (end - start) * 1e-6
        late = total > self._budget_ms
        timing = FrameTiming(
            (ready - start) * 1e-6, (begun - ready) * 1e-6, (done - begun) * 1e-6, (end - done) * 1e-6, total, late
        )
        with self._lock:
            self._last.append(timing)
            self._frames += 1
            self._missed += late
        return timing

    def statistics(self) -> Statistics:
        """What is known so far."""
        import numpy as np

        with self._lock:
            rows = [timing[: len(PARTS)] for timing in self._last]
            frames, missed = self._frames, self._missed
        budget = None if self._budget_ms == float("inf") else self._budget_ms
        if not rows:
            return Statistics(0, 0, budget, 0, {}, {}, {})
        values = np.array(rows)
        p50, p99 = np.quantile(values, (0.5, 0.99), axis=0, method="inverted_cdf").tolist()

        def named(row: list[float]) -> dict[str, float]:
            return dict(zip(PARTS, row, strict=True))

        return Statistics(frames, missed, budget, len(rows), named(p50), named(p99), named(values.max(axis=0).tolist()))
