"""What a gate's own rules leave open is said beside the verdict."""

from __future__ import annotations

import pytest

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.remarks import NO_ACCURACY, remarks
from made_trials import measured


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"latency_p50_ms": 5}, NO_ACCURACY),
        ({}, NO_ACCURACY),
        ({"max_drop": {"top1": 0.5}}, "gate.max_drop.top1 = 0.5 is a wide limit: top1 may lose 50 points of 100"),
        ({"critical": {"car": 0.2}}, "gate.critical.car = 0.2 is a wide limit: car may lose 20 points of 100"),
        ({"min_agreement": 0.4}, "gate.min_agreement = 0.4 is a wide limit: 60 of 100 answers may differ"),
    ],
)
def test_each_is_one_sentence(rules: dict[str, object], words: str) -> None:
    assert remarks(Gate(**rules)) == (words,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rules", [{"max_drop": {"top1": 0.05}}, {"min": {"top1": 0.9}}, {"critical": {"car": 0.1}}, {"min_agreement": 0.95}]
)
def test_common_limits_have_none(rules: dict[str, object]) -> None:
    assert remarks(Gate(**rules)) == ()  # type: ignore[arg-type]


def test_a_limit_of_other_units_is_not_judged() -> None:
    assert remarks(Gate(max_drop={"pixels": 3.0}), shares=False) == ()


def test_a_ship_by_latency_alone_is_not_silent() -> None:
    base = measured("reference", precision="fp32", ms=8.0)
    decision = judge(Gate(latency_p50_ms=5), [measured(ms=2.0)], base)
    assert decision.verdict == "SHIP"
    assert decision.remarks == (NO_ACCURACY,)
    assert decision.sentence.endswith(f". {NO_ACCURACY}.")
