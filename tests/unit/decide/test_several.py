"""Several tasks in one verdict: each is judged as it would be alone, and all must pass."""

from __future__ import annotations

from typing import Any

import pytest

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import Measured
from edgeship.errors import UserInputError
from edgeship.metrics.several import joined
from made_trials import failed, measured, records

ALONE = Gate(max_drop={"top1": 0.02}, critical={"pedestrian": 0.05})
BOTH = Gate(max_drop={"day.top1": 0.02, "night.top1": 0.02}, critical={"night.pedestrian": 0.05}, latency_p50_ms=3.0)


def several(day: Any, night: Any, name: str = "int8", **changes: Any) -> Measured:
    parts = {"day": records(day), "night": records(night)}
    whole = joined(parts) | {key: parts["day"][key] for key in ("ids", "digests")}
    return measured(name, arrays=whole, **changes)


REFERENCE = several(8, 8, "fp32", precision="fp32")


def test_each_task_is_judged_as_it_would_be_alone() -> None:
    decision = judge(BOTH, [several(10, {"pedestrian": 16, "car": 8, "cyclist": 8})], REFERENCE)
    (both,) = decision.judged
    rules = {rule.name: rule for rule in both.rules}
    for task, wrong in (("day", 10), ("night", {"pedestrian": 16, "car": 8, "cyclist": 8})):
        alone = judge(ALONE, [measured(arrays=records(wrong))], measured("fp32", precision="fp32", arrays=records(8)))
        for rule in alone.judged[0].rules:
            head, _, subject = rule.name.partition(".")
            own = rules.get(f"{head}.{task}.{subject}")
            if own is not None:
                assert (own.outcome, own.measured, own.bound) == (rule.outcome, rule.measured, rule.bound)
        assert both.drop[f"{task}.top1"] == alone.judged[0].drop["top1"]
        assert both.class_drop[f"{task}.recall"][f"{task}.car"] == alone.judged[0].class_drop["recall"]["car"]
    assert {"max_drop.day.top1", "max_drop.night.top1", "critical.night.pedestrian"} <= rules.keys()
    assert [rule.name for rule in both.rules].count("latency_p50_ms") == 1
    assert rules["max_drop.night.top1"].reason.startswith("night: top1")


@pytest.mark.parametrize(
    ("day", "night", "verdict"), [(8, 8, "SHIP"), (8, 200, "NO-SHIP"), (200, 8, "NO-SHIP"), (8, 20, "INCONCLUSIVE")]
)
def test_all_tasks_must_pass(day: int, night: int, verdict: str) -> None:
    gate = Gate(max_drop={"day.top1": 0.035, "night.top1": 0.035})
    assert judge(gate, [several(day, night)], REFERENCE).verdict == verdict


def test_a_limit_that_names_no_task_is_refused() -> None:
    with pytest.raises(UserInputError, match=r"max_drop\.top1: there are several tasks.*day\.top1 or night\.top1"):
        judge(ALONE, [several(8, 8)], REFERENCE)
    with pytest.raises(UserInputError, match="no such metric"):
        judge(Gate(max_drop={"day.top2": 0.1}), [several(8, 8)], REFERENCE)


def test_a_candidate_that_failed_fails_alone() -> None:
    decision = judge(BOTH, [failed("int8"), several(8, 8, "fp16", precision="fp16")], REFERENCE)
    assert decision.chosen == "fp16"
    assert {item.candidate: item.outcome for item in decision.judged}["int8"] == "fail"


def test_a_reference_no_better_than_chance_in_one_task_is_doubted() -> None:
    poor = several(8, 300, "fp32", precision="fp32")
    decision = judge(BOTH, [several(8, 300)], poor)
    doubted = [rule for rule in decision.judged[0].rules if rule.name.startswith("reference")]
    assert [rule.name for rule in doubted] == ["reference.night"]
    assert decision.verdict != "SHIP"
