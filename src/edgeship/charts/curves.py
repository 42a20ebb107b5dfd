"""Curves of shares over shares in one square: precision over recall, accuracy over confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeship.charts.scale import Scale
from edgeship.charts.svg import element, line, number, picture, text

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curve:
    """One curve. ``key``: ``reference`` or ``candidate``; points are shares 0..1 in the order they are joined."""

    key: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True)
class Square:
    """All that the chart shows. ``diagonal``: draw where both shares are equal."""

    curves: tuple[Curve, ...]
    x_title: str
    y_title: str
    label: str
    diagonal: bool = False


def draw(chart: Square, size: int, kind: str) -> Markup:
    """The chart at one size."""
    x, y = Scale(0.0, 1.0, 52, size - 16), Scale(0.0, 1.0, size - 46, 26)
    parts = list(_axes(chart, x, y))
    if chart.diagonal:
        parts.append(line(x(0), y(0), x(1), y(1), class_="zero"))
    for curve in chart.curves:
        places = [(x.clamped(a), y.clamped(b)) for a, b in curve.points]
        if not places:
            continue
        path = "M" + "L".join(f"{number(a)} {number(b)}" for a, b in places)
        parts.append(element("path", d=path, class_=f"curve curve-{curve.key}"))
        if curve.dots:
            parts += [element("circle", cx=a, cy=b, r=3.5, class_=f"dot dot-{curve.key}") for a, b in places]
    return picture(size, size, chart.label, parts, class_=f"chart square {kind}")


def _axes(chart: Square, x: Scale, y: Scale) -> Iterator[Markup]:
    for value in TICKS:
        yield line(x(value), y(1), x(value), y(0), class_="grid")
        yield line(x(0), y(value), x(1), y(value), class_="grid")
        yield text(x(value), y(0) + 17, f"{value:.0%}", class_="tick", text_anchor="middle")
        yield text(x(0) - 8, y(value) + 4, f"{value:.0%}", class_="tick", text_anchor="end")
    yield line(x(0), y(0), x(1), y(0), class_="axis")
    yield text(x(1), y(0) + 36, chart.x_title, class_="title", text_anchor="end")
    yield text(4, 14, chart.y_title, class_="title")
