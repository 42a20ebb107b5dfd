"""How numbers are written."""

from __future__ import annotations

import math

import pytest

from edgeship.decide import rulebook
from edgeship.decide.report import numbers
from edgeship.results import Rule


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (1.0, "1.00"), (12.345, "12.3"), (999.6, "1,000"), (0.01234, "0.0123"), (-2.5, "−2.50"),
        (123456.0, "123,456"), (1e-7, "1.00e−07"), (math.inf, "∞"), (math.nan, "not a number"), (None, "–"),
    ],
)  # fmt: skip
def test_significant(value: float | None, shown: str) -> None:
    assert numbers.significant(value) == shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.milliseconds(0.46812), "0.468 ms"),
        (numbers.milliseconds(33.0), "33.00 ms"),
        (numbers.milliseconds(250.0), "250.0 ms"),
        (numbers.tidy(numbers.milliseconds(33.0)), "33 ms"),
        (numbers.tidy("+0.50 pp"), "+0.5 pp"),
        (numbers.tidy("100 MiB"), "100 MiB"),
        (numbers.points(0.00314), "+0.31 pp"),
        (numbers.points(-0.00314), "−0.31 pp"),
        (numbers.points(0.00001), "0.00 pp"),
        (numbers.percent(0.9228), "92.28 %"),
        (numbers.seconds(0.5), "0.50 s"),
        (numbers.seconds(0.004), "4.00 ms"),
        (numbers.seconds(125.0), "2 min 05 s"),
        (numbers.seconds(7380.0), "2 h 03 min"),
        (numbers.size(2048.0), "2.00 KiB"),
        (numbers.size(5 * 2**20), "5.00 MiB"),
        (numbers.times(2.3), "2.30×"),
    ],
)
def test_units(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected


@pytest.mark.parametrize(
    ("rule", "title", "at_least", "shown"),
    [
        ("latency_p99_ms", "Latency p99", False, "0.500 ms"),
        ("max_drop.top1", "Drop of top-1", False, "+50.00 pp"),
        ("critical.bag", "Critical class bag", False, "+50.00 pp"),
        ("speedup_over_fp32", "Speed-up over fp32", True, "0.500×"),
        ("min_agreement", "Agreement with the reference", True, "50.0 %"),
        ("audit", "Achieved precision", True, "50.0 %"),
        ("max_engine_mib", "Engine size", False, "0.500 MiB"),
        ("something_new", "Something new", False, "0.500 MiB"),
    ],
)
def test_rules_are_written_by_what_they_limit(rule: str, title: str, at_least: bool, shown: str) -> None:
    assert numbers.rule_title(rule) == title
    assert rulebook.of(rule).higher_is_better is at_least
    judged = Rule(
        name=rule, outcome="pass", measured=0.5, limit=1.0, unit="MiB" if rule.endswith("new") else "", reason=""
    )
    assert numbers.rule_quantity(judged, 0.5).replace("\u00a0", " ") == shown


def test_a_metric_beyond_one_is_no_share() -> None:
    assert numbers.is_share([0.2, 1.0]) and not numbers.is_share([0.2, 31.0]) and not numbers.is_share([math.nan])
    assert numbers.drop_value(1.5, share=False) == "+1.500"
