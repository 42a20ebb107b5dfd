"""How long frames take in the vehicle: each part apart, deadlines counted, memory constant."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

WINDOW = 4096
"""Frames that the quantiles are taken over."""
PARTS = ("preprocess", "wait", "infer", "postprocess", "total")


@dataclass(frozen=True)
class FrameTiming:
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
        self._budget_ms = budget_ms
        self._lock = threading.Lock()
        self._ring = np.zeros((WINDOW, len(PARTS)), dtype=np.float64)
        self._frames = 0
        self._missed = 0

    def record(self, start: int, ready: int, begun: int, done: int, end: int) -> FrameTiming:
        """Note one frame by its moments in nanoseconds."""
        parts = (
            (ready - start) * 1e-6,
            (begun - ready) * 1e-6,
            (done - begun) * 1e-6,
            (end - done) * 1e-6,
            (end - start) * 1e-6,
        )
        late = self._budget_ms is not None and parts[4] > self._budget_ms
        with self._lock:
            self._ring[self._frames % WINDOW] = parts
            self._frames += 1
            self._missed += late
        return FrameTiming(*parts, late)

    def statistics(self) -> Statistics:
        """What is known so far."""
        with self._lock:
            window = min(self._frames, WINDOW)
            values = self._ring[:window].copy()
            frames, missed = self._frames, self._missed
        if not window:
            return Statistics(0, 0, self._budget_ms, 0, {}, {}, {})
        p50, p99 = np.quantile(values, (0.5, 0.99), axis=0, method="inverted_cdf")

        def named(row: np.ndarray) -> dict[str, float]:
            return {name: float(value) for name, value in zip(PARTS, row, strict=True)}

        return Statistics(frames, missed, self._budget_ms, window, named(p50), named(p99), named(values.max(axis=0)))
