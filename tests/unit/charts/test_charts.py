"""Axes, scales, and the places of things in charts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeship.charts import row_charts, scale, scatter, svg

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(FINITE, st.floats(1e-6, 1e3), st.integers(2, 9))
def test_ticks_are_round_even_and_inside(low: float, relative: float, count: int) -> None:
    span = relative * max(abs(low), 1e-3)
    high = low + span
    found = scale.ticks(low, high, count)
    assert len(found) <= count + 3
    slack = span * 1e-3 + 1e-9
    assert all(low - slack <= value <= high + slack for value in found)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert max(steps, default=0) - min(steps, default=0) <= span * 1e-3 + 1e-9


def test_tick_labels_have_the_decimals_their_step_needs() -> None:
    assert scale.tick_labels([0.0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert scale.tick_labels([-200.0, 0.0, 200.0]) == ["−200", "0", "200"]
    assert scale.tick_labels([0.05, 0.1]) == ["0.05", "0.10"]
    assert scale.log_ticks(0.9, 30) == [1.0, 2.0, 5.0, 10.0, 20.0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_a_padded_range_is_never_empty(values: list[float]) -> None:
    low, high = scale.padded(values)
    assert low < high and low <= min(values) and max(values) <= high


def test_scales_place_ends_and_middles() -> None:
    straight = scale.Scale(0, 10, 100, 200)
    assert [straight(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert straight.clamped(99) == 200 and not straight.holds(99)
    assert scale.Scale(1, 100, 0, 1, log=True)(10) == pytest.approx(0.5)


def test_svg_escapes_text_and_attributes() -> None:
    drawn = svg.text(1.0, "2%", '<b>"&', aria_label='"><script>')
    assert drawn == '<text x="1" y="2%" aria-label="&#34;&gt;&lt;script&gt;">&lt;b&gt;&#34;&amp;</text>'


def test_each_outcome_has_its_own_shape() -> None:
    shapes = {str(svg.mark(outcome, 0, 0)).replace(outcome, "") for outcome in ("pass", "fail", "inconclusive")}
    assert len(shapes) == 3


def test_a_rule_far_over_its_limit_stays_in_the_picture() -> None:
    drawn = row_charts.headroom_row(75.0, 90.0, 6.0, "fail", at_least=False)
    places = [float(part.split("%")[0]) for part in str(drawn).split('x="')[1:] if "%" in part.split('"')[0]]
    assert places and all(0 <= place <= 100 for place in places)


def test_names_in_the_scatter_never_meet() -> None:
    points = tuple(
        scatter.Point(f"candidate-{index}", 1 + index * 0.01, 0.9 + index * 1e-4, None, "pass", index == 0, "tip")
        for index in range(24)
    )
    chart = scatter.Scatter(points, "x", "y", (1.2, "budget"), (0.9, "reference"), (0.89, "floor"), 100.0, "label")
    taken: list[scatter._Rect] = []
    for point in points:
        placed = scatter._place(point, 60 + 20 * point.latency, 100, scatter._Rect(52, 26, 848, 356), taken)
        if placed is not None:
            assert not any(placed[1].meets(other) for other in taken)
            taken.append(placed[1])
    assert taken
    drawn = str(scatter.draw(chart, 860, 400, "wide"))
    assert "candidate-0</text>" in drawn and drawn.count("<title>") == 24
