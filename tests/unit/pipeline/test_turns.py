"""Which candidates are timed turn by turn."""

from __future__ import annotations

from edgeship.pipeline.turns import MOST, taking_part
from made_trials import measured

FP32 = measured("fp32", precision="fp32", ms=9.0)


def test_fp32_takes_part_though_it_misses_its_budget() -> None:
    timed = [FP32, measured("int8", ms=2.0), measured("fp16", precision="fp16", ms=3.0)]
    assert [item.name for item in taking_part(timed, {"int8"})] == ["int8", "fp32"]
    assert [item.name for item in taking_part(timed, {"fp16", "int8", "fp32"})] == ["int8", "fp16", "fp32"]


def test_nobody_takes_part_where_nothing_passes() -> None:
    assert taking_part([FP32, measured("int8")], set()) == []


def test_the_fastest_take_part_each_by_its_slowest_build() -> None:
    many = [measured(f"int8-{k}", ms=float(k)) for k in range(1, MOST + 3)]
    again = measured("int8-1", ms=2.5)
    found = taking_part([*many, again], {item.name for item in many})
    assert [item.name for item in found] == ["int8-2", "int8-1", "int8-3", "int8-4"]
    assert found[1] is again
