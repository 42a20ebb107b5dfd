"""A figure over successive runs: one line, its limit, and an outcome's mark for each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeship.charts.scale import Scale, padded, tick_labels, ticks
from edgeship.charts.svg import element, group, line, mark, number, picture, text

HEIGHT = 210
LABELS = 12
"""Runs up to which each has its name below the axis; of more, every n-th has."""


@dataclass(frozen=True)
class Point:
    """One run. ``value`` None: it has none, and the line is broken there."""

    name: str
    value: float | None
    outcome: str
    """pass, fail or inconclusive."""
    tip: str = ""


@dataclass(frozen=True)
class Trend:
    """All that the chart shows, the earliest run first."""

    points: Sequence[Point]
    title: str
    label: str
    limit: float | None = None


def draw(chart: Trend, width: int, kind: str) -> Markup:
    """The chart at one width."""
    values = [point.value for point in chart.points if point.value is not None]
    known = values + ([chart.limit] if chart.limit is not None else [])
    low, high = padded(known or [0.0, 1.0])
    x = Scale(0.0, max(len(chart.points) - 1, 1), 72, width - 28)
    y = Scale(low, high, HEIGHT - 40, 30)
    parts = list(_axes(chart, x, y))
    if chart.limit is not None:
        parts.append(line(x.start, y(chart.limit), x.end, y(chart.limit), class_="limit"))
    for path in _lines(chart, x, y):
        parts.append(element("path", d=path, class_="curve curve-candidate"))
    for place, point in enumerate(chart.points):
        if point.value is not None:
            shape = mark(point.outcome, x(place), y(point.value), 4.5)
            parts.append(group([element("title", point.tip or point.name), shape]))
    return picture(width, HEIGHT, chart.label, parts, class_=f"chart {kind}")


def _lines(chart: Trend, x: Scale, y: Scale) -> Iterator[str]:
    """A path for each stretch of runs that have a value."""
    stretch: list[str] = []
    for place, point in enumerate((*chart.points, Point("", None, "plain"))):
        if point.value is not None:
            stretch.append(f"{number(x(place))} {number(y(point.value))}")
            continue
        if len(stretch) > 1:
            yield "M" + "L".join(stretch)
        stretch = []


def _axes(chart: Trend, x: Scale, y: Scale) -> Iterator[Markup]:
    values = ticks(y.low, y.high, 4)
    for value, label in zip(values, tick_labels(values), strict=True):
        yield line(x.start, y(value), x.end, y(value), class_="grid")
        yield text(x.start - 8, y(value) + 4, label, class_="tick", text_anchor="end")
    yield line(x.start, y.start, x.end, y.start, class_="axis")
    step = -(-len(chart.points) // LABELS)
    for place, point in enumerate(chart.points):
        if place % step == (len(chart.points) - 1) % step:
            yield text(x(place), y.start + 17, point.name[:10], class_="tick", text_anchor="middle")
    yield text(4, 14, chart.title, class_="title")
