"""Axes: a range of values onto pixels, with ticks at nice numbers.

Nice numbers after P. Heckbert, "Nice numbers for graph labels", Graphics Gems (1990): 1, 2 or 5 times a power of ten.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """``low``..``high`` onto ``start``..``end``, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values outside the range land outside the pixels."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def clamped(self, value: float) -> float:
        """The place of a value, moved to the nearest end when it is outside."""
        return self(min(max(value, self.low), self.high))

    def holds(self, value: float) -> bool:
        """Whether a value is within the range."""
        return self.low <= value <= self.high


def nice_step(span: float, count: int) -> float:
    """The 1-2-5 step that cuts ``span`` into about ``count`` parts."""
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    part = raw / power
    nice = 1 if part <= 1 else 2 if part <= 2 else 5 if part <= 5 else 10
    return nice * power


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values within ``low``..``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    step = nice_step(high - low, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within ``low``..``high``; every power of ten only over more than two decades."""
    parts = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [part * 10.0**exponent for exponent in exponents for part in parts]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels with just as many decimals as their step needs."""
    if len(values) < 2:
        return [f"{value:g}".replace("-", "−") for value in values]
    step = min(b - a for a, b in itertools.pairwise(values))
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{places}f}".replace("-", "−") for value in values]


def padded(values: Sequence[float], share: float = 0.08, *, least: float = 0.0) -> tuple[float, float]:
    """The range of ``values`` with a margin on both sides, never narrower than ``least`` (nor empty)."""
    low, high = min(values), max(values)
    span = max(high - low, least)
    if span <= 0:
        span = abs(high) * 0.1 or 1.0
    middle = (low + high) / 2
    half = span / 2 * (1 + 2 * share)
    return middle - half, middle + half
