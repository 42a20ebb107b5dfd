"""Rules about frames, rates, starts and energy: each passes, fails and stays undecided where it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import Measured
from edgeship.results import Energy, FrameTimes, MachineLoad, Quantiles, Rule, Starts
from made_trials import measured


def quantiles(values: np.ndarray) -> Quantiles:
    p50, p90, p99 = (float(np.quantile(values, level)) for level in (0.5, 0.9, 0.99))
    return Quantiles(p50=p50, p90=p90, p99=p99, mean=p50, min=p50, samples=len(values), interval=(p50, p50))


def framed(
    ms: float = 20.0, count: int = 1000, *, fps: float | None = 30.0, late: float = 20.0, **changes: Any
) -> Measured:
    random = np.random.default_rng(0)
    total, paced = (random.normal(value, 0.1, count) for value in (ms, late))
    times = FrameTimes(
        batch=1,
        pictures=64,
        from_files=True,
        parts_ms={"image": quantiles(total / 4), "infer": quantiles(total / 2)},
        total_ms=quantiles(total),
        fps=fps,
        paced=count if fps else 0,
        missed=int((paced > 1e3 / fps).sum()) if fps else 0,
        **changes,
    )
    item = measured(frame=times)
    return Measured(item.trial, item.records, item.latency, frames={"total_ms": total, "paced_ms": paced})


def only(gate: Gate, item: Measured, name: str) -> Rule:
    reference = measured("fp32", precision="fp32")
    judged = judge(gate, [item], reference).judged[0]
    return next(rule for rule in judged.rules if rule.name == name)


def test_a_frame_within_its_budget_passes_by_its_bound() -> None:
    rule = only(Gate(frame_p99_ms=33), framed(), "frame_p99_ms")
    assert rule.outcome == "pass"
    assert rule.measured is not None and rule.bound is not None and rule.measured <= rule.bound < 21
    assert "decode the image 5" in rule.reason and "infer 10" in rule.reason


def test_a_frame_over_its_budget_fails_unless_the_machine_was_busy() -> None:
    assert only(Gate(frame_p99_ms=19), framed(), "frame_p99_ms").outcome == "fail"
    busy = framed(machine=MachineLoad(busy="other processes used 1.9 of 2 cores"))
    assert only(Gate(frame_p99_ms=19), busy, "frame_p99_ms").outcome == "inconclusive"
    assert only(Gate(frame_p99_ms=0.5), busy, "frame_p99_ms").outcome == "fail"  # no other work slows frames tenfold


def test_few_frames_prove_nothing() -> None:
    rule = only(Gate(frame_p99_ms=33), framed(count=100), "frame_p99_ms")
    assert rule.outcome == "inconclusive"
    assert "it takes at least 299" in rule.reason


def test_a_rate_is_kept_when_99_of_100_frames_are_done_in_time() -> None:
    rule = only(Gate(fps=30), framed(), "fps")
    assert (rule.outcome, rule.limit) == ("pass", pytest.approx(1000 / 30))
    assert "0 of 1000 frames at 30 a second missed their deadline" in rule.reason
    late = only(Gate(fps=30), framed(late=34.0), "fps")
    assert late.outcome == "fail"
    assert "1000 of 1000" in late.reason


def test_another_rate_than_the_measured_one_is_not_judged() -> None:
    assert only(Gate(fps=60), framed(), "fps").outcome == "inconclusive"
    assert only(Gate(fps=60), framed(fps=None), "fps").outcome == "inconclusive"


def test_what_was_not_measured_never_passes() -> None:
    gate = Gate(frame_p99_ms=33, fps=30, load_ms=100, energy_mj_per_frame=10, power_w=10)
    judged = judge(gate, [measured()], measured("fp32", precision="fp32")).judged[0]
    asked = {"frame_p99_ms", "fps", "load_ms", "energy_mj_per_frame", "power_w"}
    assert {rule.name: rule.outcome for rule in judged.rules if rule.name in asked} == dict.fromkeys(
        asked, "inconclusive"
    )
    assert judged.outcome == "inconclusive"


def test_a_start_is_judged_by_its_longest_cold_one() -> None:
    item = measured(starts=Starts(cold_ms=(80.0, 120.0, 90.0), warm_ms=(40.0, 41.0, 42.0)))
    assert only(Gate(load_ms=121), item, "load_ms").outcome == "pass"
    rule = only(Gate(load_ms=119), item, "load_ms")
    assert (rule.outcome, rule.measured) == ("fail", 120.0)


@pytest.mark.parametrize(("limit", "outcome"), [(9.0, "fail"), (10.05, "inconclusive"), (11.0, "pass")])
def test_energy_is_judged_by_the_bound_over_its_blocks(limit: float, outcome: str) -> None:
    """Eight blocks of mean 10 and standard deviation 0.2: t(0.95, 7) = 1.895, so at most 10.134."""
    blocks = tuple(10 + 0.2 * value / np.std([-1, 1] * 4, ddof=1) for value in [-1.0, 1.0] * 4)
    energy = Energy(
        source="RAPL package counters", mj_per_frame=blocks, power_w=blocks, rest_w=(1.0,) * 8, frames=8, batch=1
    )
    for name in ("energy_mj_per_frame", "power_w"):
        rule = only(Gate(**{name: limit}), measured(energy=energy), name)
        assert rule.outcome == outcome
        assert rule.bound == pytest.approx(10.134, abs=0.001)
        assert "RAPL package counters over 8 frames" in rule.reason
