"""Charts one table row high: they stretch with their cell, because their children stand at percentages.

The numbers they draw stand in the cells beside them, so they are hidden from assistive technology.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeship.charts import scale as scales
from edgeship.charts.scale import Scale
from edgeship.charts.svg import element, line, mark, number, share, strip, text

HEIGHT = 22
MIDDLE = HEIGHT / 2
INSET = 0.02
TALL = 40


@dataclass(frozen=True)
class Axis:
    """A shared horizontal axis of many rows, in shares 0..1 of the cell's width."""

    scale: Scale
    ticks: tuple[tuple[float, str], ...]

    def __call__(self, value: float) -> str:
        """The place of a value, as a percentage, kept inside the picture."""
        return share(self.scale.clamped(value))


def axis(low: float, high: float, count: int = 4, *, log: bool = False, unit: str = "") -> Axis:
    """An axis over ``low``..``high`` with nice ticks."""
    scale = Scale(low, high, INSET, 1 - INSET, log)
    values = scales.log_ticks(low, high) if log else scales.ticks(low, high, count)
    labels = [f"{value:g}" for value in values] if log else scales.tick_labels(values)
    return Axis(scale, tuple((value, label + unit) for value, label in zip(values, labels, strict=True)))


def scale_row(axis_: Axis) -> Markup:
    """The axis' tick labels, for the head of the table column."""
    children = []
    for value, label in axis_.ticks:
        place = axis_.scale(value)
        anchor = "start" if place < 0.08 else "end" if place > 0.92 else "middle"
        children.append(text(share(place), 13, label, class_="tick", text_anchor=anchor))
    return strip(18, children, class_="strip")


def _gridlines(axis_: Axis, height: int) -> list[Markup]:
    return [line(axis_(value), 0, axis_(value), height, class_="grid") for value, _ in axis_.ticks]


@functools.lru_cache(maxsize=4096)
def interval_row(
    axis_: Axis,
    value: float,
    interval: tuple[float, float] | None,
    limit: float | None,
    outcome: str,
) -> Markup:
    """A value with its interval against zero and a limit (forest plot); of a thousand classes few differ."""
    children = _gridlines(axis_, HEIGHT)
    if axis_.scale.holds(0):
        children.append(line(axis_(0), 0, axis_(0), HEIGHT, class_="zero"))
    if limit is not None:
        children.append(line(axis_(limit), 1, axis_(limit), HEIGHT - 1, class_="limit"))
    if interval is not None and all(map(math.isfinite, interval)):
        children.append(line(axis_(interval[0]), MIDDLE, axis_(interval[1]), MIDDLE, class_="whisker"))
    if math.isfinite(value):
        children.append(mark(outcome, axis_(value), MIDDLE, 4.0))
    return strip(HEIGHT, children, class_="strip")


def bar_row(part: float, kind: str = "") -> Markup:
    """A bar that fills ``part`` (0..1) of the cell."""
    width = share(min(max(part, 0.0), 1.0))
    bar = element("rect", x=0, y=5, width=width, height=HEIGHT - 10, rx=2, class_=f"bar {kind}".strip())
    return strip(HEIGHT, [bar], class_="strip")


def stacked_row(parts: Sequence[tuple[str, float]]) -> Markup:
    """Shares of one whole, left to right: (class of the colour, share)."""
    children, start = [], 0.0
    for kind, part in parts:
        if part > 0:
            children.append(element("rect", x=share(start), y=4, width=share(part), height=HEIGHT - 8, class_=kind))
        start += part
    return strip(HEIGHT, children, class_="strip stacked")


def headroom_row(measured: float | None, bound: float | None, limit: float, outcome: str, *, at_least: bool) -> Markup:
    """A rule's measured value and bound against its limit, which stands at two thirds of the cell.

    Zero is the left edge. The allowed side of the limit is shaded.
    """
    measured, bound = (value if value is not None and math.isfinite(value) else None for value in (measured, bound))
    known = [abs(value) for value in (measured, bound) if value is not None]
    reach = max(abs(limit) * 1.5, *(value * 1.05 for value in known), 1e-12)
    low = min(0.0, *(value for value in (measured, bound) if value is not None), 0.0)
    low = max(low, -reach / 2)
    axis_ = Axis(Scale(low, reach, INSET, 1 - INSET), ())
    edge = axis_.scale(limit)
    allowed = (edge, 1 - edge) if at_least else (0.0, edge)
    children = [
        element("rect", x=share(allowed[0]), y=3, width=share(allowed[1]), height=HEIGHT - 6, class_="allowed", rx=2),
        line(share(edge), 1, share(edge), HEIGHT - 1, class_="limit"),
    ]
    if low < 0:
        children.append(line(axis_(0), 3, axis_(0), HEIGHT - 3, class_="zero"))
    if measured is not None and bound is not None and bound != measured:
        children.append(line(axis_(measured), MIDDLE, axis_(bound), MIDDLE, class_="whisker"))
        children.append(line(axis_(bound), MIDDLE - 4, axis_(bound), MIDDLE + 4, class_="whisker"))
    if measured is not None:
        children.append(mark(outcome, axis_(measured), MIDDLE, 4.0))
    return strip(HEIGHT, children, class_="strip")


def histogram_row(
    axis_: Axis, counts: Sequence[int], marks: Sequence[tuple[str, float]], limits: Sequence[float]
) -> Markup:
    """A distribution over the axis' whole range, in equal bins, with marked quantiles and budgets.

    Args:
        axis_: The shared axis.
        counts: How many samples fell into each bin of the axis, in the axis' own (straight or log) spacing.
        marks: (class, value): a vertical mark at a quantile.
        limits: Budgets.
    """
    top = max(counts, default=0)
    children = _gridlines(axis_, TALL)
    if top:
        bins = len(counts)
        steps = [f"M0 {TALL}"]
        for index, count in enumerate(counts):
            height = number(TALL - count / top * (TALL - 4))
            steps.append(f"L{index} {height}L{index + 1} {height}")
        steps.append(f"L{bins} {TALL}Z")
        shape = element("path", d="".join(steps), class_="hump")
        inner = element(
            "svg",
            shape,
            x=share(INSET),
            width=share(1 - 2 * INSET),
            height=TALL,
            viewBox=f"0 0 {bins} {TALL}",
            preserveAspectRatio="none",
        )
        children.append(inner)
    for kind, value in marks:
        if axis_.scale.holds(value):
            children.append(line(axis_(value), 2, axis_(value), TALL, class_=kind))
    for limit in limits:
        if axis_.scale.holds(limit):
            children.append(line(axis_(limit), 0, axis_(limit), TALL, class_="limit"))
    return strip(TALL, children, class_="strip")
