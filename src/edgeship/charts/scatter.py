"""Latency against the metric that matters, for all candidates of a target, with the lines of the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeship.charts import scale as scales
from edgeship.charts.scale import Scale
from edgeship.charts.svg import element, group, line, mark, picture, text

LETTER = 6.6
"""Width of a character at the labels' size, in pixels, on the generous side."""
LINE = 15.0


@dataclass(frozen=True)
class Point:
    """One candidate. ``interval`` is the metric's, from the interval of its drop."""

    name: str
    latency: float
    metric: float
    interval: tuple[float, float] | None
    outcome: str
    chosen: bool
    tip: str


@dataclass(frozen=True)
class Scatter:
    """All that the chart shows. ``factor`` scales the metric's ticks (100 for percentages)."""

    points: tuple[Point, ...]
    x_title: str
    y_title: str
    budget: tuple[float, str] | None
    reference: tuple[float, str] | None
    floor: tuple[float, str] | None
    factor: float
    label: str


@dataclass(frozen=True)
class _Rect:
    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: _Rect) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: _Rect) -> bool:
        return self.x0 >= other.x0 and self.x1 <= other.x1 and self.y0 >= other.y0 and self.y1 <= other.y1


def draw(chart: Scatter, width: int, height: int, kind: str) -> Markup:
    """The chart at one size. The page holds a wide and a narrow one and shows what fits the screen."""
    frame = _Rect(52, 26, width - 12, height - 44)
    x, y = _scales(chart, frame)
    parts = [*_allowed(chart, frame, x, y), *_axes(chart, frame, x, y, narrow=width < 500)]
    taken = [_around(x(point.latency), y(point.metric), 8) for point in chart.points]
    taken += [_whisker(point, x, y) for point in chart.points if point.interval is not None]
    for shapes, rect in _lines(chart, frame, x, y, (*taken, *_drawn(chart, frame, x, y))):
        parts += shapes
        taken.append(rect)
    taken += [_Rect(frame.x0, y(at) - 1, frame.x1, y(at) + 1) for at, _ in filter(None, (chart.reference, chart.floor))]
    for point in sorted(chart.points, key=lambda point: point.chosen):
        parts.append(_point(point, x, y))
    for point in sorted(chart.points, key=lambda point: (not point.chosen, point.outcome != "pass", point.latency)):
        placed = _place(point, x(point.latency), y(point.metric), frame, taken)
        if placed is not None:
            shape, rect = placed
            parts.append(shape)
            taken.append(rect)
    return picture(width, height, chart.label, parts, class_=f"chart {kind}")


def _scales(chart: Scatter, frame: _Rect) -> tuple[Scale, Scale]:
    latencies = [point.latency for point in chart.points]
    most = max(latencies)
    if chart.budget is not None and chart.budget[0] < most * 3:
        latencies.append(chart.budget[0])
    if min(latencies) < 0.55 * max(latencies):
        latencies.append(0.0)
    low, high = scales.padded(latencies, 0.07, least=max(latencies) * 0.1)
    metrics = [value for point in chart.points for value in (point.metric, *(point.interval or ()))]
    metrics += [pair[0] for pair in (chart.reference, chart.floor) if pair is not None]
    bottom, top = scales.padded(metrics, 0.08, least=0.01 if chart.factor == 100 else 0.0)
    if chart.factor == 100:
        bottom, top = max(bottom, -0.02), min(top, 1.02)
    return Scale(max(low, 0.0), high, frame.x0, frame.x1), Scale(bottom, top, frame.y1, frame.y0)


def _allowed(chart: Scatter, frame: _Rect, x: Scale, y: Scale) -> Iterator[Markup]:
    """The part of the plane that the gate allows."""
    if chart.budget is None and chart.floor is None:
        return
    right = x.clamped(chart.budget[0]) if chart.budget is not None else frame.x1
    bottom = y.clamped(chart.floor[0]) if chart.floor is not None else frame.y1
    yield element("rect", x=frame.x0, y=frame.y0, width=right - frame.x0, height=bottom - frame.y0, class_="allowed")


def _axes(chart: Scatter, frame: _Rect, x: Scale, y: Scale, *, narrow: bool) -> Iterator[Markup]:
    xs = scales.ticks(x.low, x.high, 4 if narrow else 7)
    for value, label in zip(xs, scales.tick_labels(xs), strict=True):
        yield line(x(value), frame.y0, x(value), frame.y1, class_="grid")
        yield text(x(value), frame.y1 + 17, label, class_="tick", text_anchor="middle")
    ys = scales.ticks(y.low * chart.factor, y.high * chart.factor, 5)
    for value, label in zip(ys, scales.tick_labels(ys), strict=True):
        place = y(value / chart.factor)
        yield line(frame.x0, place, frame.x1, place, class_="grid")
        yield text(frame.x0 - 8, place + 4, label, class_="tick", text_anchor="end")
    yield line(frame.x0, frame.y1, frame.x1, frame.y1, class_="axis")
    yield text(frame.x1, frame.y1 + 36, chart.x_title, class_="title", text_anchor="end")
    yield text(4, 14, chart.y_title, class_="title")


def _drawn(chart: Scatter, frame: _Rect, x: Scale, y: Scale) -> Iterator[_Rect]:
    """Where the lines of the gate and of the reference run: no label crosses one."""
    if chart.budget is not None and x.holds(chart.budget[0]):
        yield _Rect(x(chart.budget[0]) - 2, frame.y0, x(chart.budget[0]) + 2, frame.y1)
    for pair in (chart.reference, chart.floor):
        if pair is not None and y.holds(pair[0]):
            yield _Rect(frame.x0, y(pair[0]) - 1, frame.x1, y(pair[0]) + 1)


def _lines(
    chart: Scatter, frame: _Rect, x: Scale, y: Scale, taken: Sequence[_Rect]
) -> Iterator[tuple[list[Markup], _Rect]]:
    if chart.budget is not None:
        value, label = chart.budget
        if x.holds(value):
            place = x(value)
            start = place + 8 + len(label) * LETTER < frame.x1
            where = place + 8 if start else place - 8
            shapes = [line(place, frame.y0, place, frame.y1, class_="limit")]
            shapes.append(text(where, frame.y1 - 8, label, class_="note", text_anchor="start" if start else "end"))
            left = where if start else where - len(label) * LETTER
            yield shapes, _Rect(left, frame.y1 - 20, left + len(label) * LETTER, frame.y1 - 4)
        else:
            label = f"{label} →"
            shapes = [text(frame.x1 - 4, frame.y1 - 8, label, class_="note", text_anchor="end")]
            yield shapes, _Rect(frame.x1 - len(label) * LETTER, frame.y1 - 20, frame.x1, frame.y1 - 4)
    for pair, kind in ((chart.reference, "zero"), (chart.floor, "limit")):
        if pair is None or not y.holds(pair[0]):
            continue
        place = y(pair[0])
        up = kind == "zero"
        top = place - 19 if up else place + 4
        wide = len(pair[1]) * LETTER
        starts = [frame.x0 + 6, frame.x1 - wide - 2, (frame.x0 + frame.x1 - wide) / 2]
        if chart.budget is not None and x.holds(chart.budget[0]):
            edge = x(chart.budget[0])
            starts += [start for start in (edge + 8, edge - wide - 8) if frame.x0 < start < frame.x1 - wide]
        rects = [_Rect(start - 2, top, start + wide + 2, top + LINE) for start in starts]
        rect = next((rect for rect in rects if not any(rect.meets(other) for other in taken)), rects[0])
        shapes = [line(frame.x0, place, frame.x1, place, class_=kind)]
        shapes.append(text(rect.x0 + 2, place - 7 if up else place + 16, pair[1], class_="note"))
        yield shapes, rect


def _whisker(point: Point, x: Scale, y: Scale) -> _Rect:
    low, high = point.interval or (point.metric, point.metric)
    return _Rect(x(point.latency) - 1, y.clamped(high), x(point.latency) + 1, y.clamped(low))


def _around(x: float, y: float, radius: float) -> _Rect:
    return _Rect(x - radius, y - radius, x + radius, y + radius)


def _point(point: Point, x: Scale, y: Scale) -> Markup:
    place = x(point.latency)
    shapes: list[Markup] = []
    if point.interval is not None:
        low, high = (y.clamped(value) for value in point.interval)
        shapes.append(line(place, low, place, high, class_="whisker thin"))
    if point.chosen:
        shapes.append(element("circle", cx=place, cy=y(point.metric), r=10, class_="halo"))
    shapes.append(mark(point.outcome, place, y(point.metric), 5.5))
    shapes.append(element("circle", cx=place, cy=y(point.metric), r=13, class_="hit"))
    return group([element("title", point.tip), *shapes])


def _place(point: Point, x: float, y: float, frame: _Rect, taken: Sequence[_Rect]) -> tuple[Markup, _Rect] | None:
    """Set a name where it meets nothing; None when there is no such place (the table has every name)."""
    name = point.name if len(point.name) <= 28 else point.name[:27] + "…"
    wide = len(name) * LETTER + 4
    gap = 14.0 if point.chosen else 10.0
    places = (
        ("start", x + gap, y + 4),
        ("end", x - gap, y + 4),
        ("start", x + gap - 2, y - 9),
        ("start", x + gap - 2, y + 17),
        ("end", x - gap + 2, y - 9),
        ("end", x - gap + 2, y + 17),
        ("middle", x, y - gap - 3),
        ("middle", x, y + gap + 10),
        ("start", x + gap, y + 32),
        ("start", x + gap, y - 24),
    )
    room = _Rect(frame.x0, frame.y0 - 10, frame.x1 + 8, frame.y1)
    for anchor, at, baseline in places:
        left = at if anchor == "start" else at - wide if anchor == "end" else at - wide / 2
        rect = _Rect(left, baseline - 11, left + wide, baseline + 4)
        if rect.within(room) and not any(rect.meets(other) for other in taken):
            kind = "name chosen" if point.chosen else "name"
            return text(at, baseline, name, class_=kind, text_anchor=anchor), rect
    return None
