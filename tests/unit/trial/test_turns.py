"""Taking turns: equal engines are rarely told apart, whatever the machine does; different ones are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeship.config import Benchmark
from edgeship.engines import Timing
from edgeship.errors import UserInputError
from edgeship.trial.turns import MIN_ROUNDS, compare_rounds, time_turns

Machine = Callable[[np.ndarray], np.ndarray]
QUICK = Benchmark(warmup_s=0.005, min_s=0.01, max_s=30.0, precision=0.02)


def rounds(random: np.random.Generator, factors: list[float], machine: Machine) -> np.ndarray:
    """16 rounds of ten calls a block, A B … B A, on a machine whose speed changes over the calls."""
    engines, count, calls = len(factors), MIN_ROUNDS, 10
    speed = machine(np.exp(random.normal(0, 0.03, count * 2 * engines * calls))).reshape(count, 2, engines, calls)
    forwards, backwards = speed[:, 0], speed[:, 1, ::-1]
    return np.median(np.concatenate([forwards, backwards], axis=2), axis=2) * np.array(factors)


MACHINES: dict[str, Machine] = {
    "quiet": lambda calls: calls,
    "warming": lambda calls: calls * np.linspace(1, 1.3, len(calls)),
    "thermal step": lambda calls: calls * np.where(np.arange(len(calls)) < len(calls) // 2, 1, 1.4),
    "bursts": lambda calls: calls * np.where(np.arange(len(calls)) % 137 < 12, 2, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("engines", [2, 4])
def test_equal_engines_are_told_apart_in_one_of_twenty_at_most(machine: str, engines: int) -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        seen = rounds(random, [1.0] * engines, MACHINES[machine])
        found = compare_rounds([str(number) for number in range(engines)], seen)
        lows = [low for name, low in zip(found.names, found.ratio_low, strict=True) if name != found.fastest]
        wrong += max(lows) > 1
    assert wrong <= 5 + 4, "5 % of 100, and two standard errors of the simulation"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_twentieth_is_seen_on_every_machine(machine: str) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        found = compare_rounds(["slow", "fast"], rounds(random, [1.05, 1.0], MACHINES[machine]))
        assert found.fastest == "fast"
        assert 1.0 < found.ratio_low[0] < 1.05 < found.ratio_high[0] < 1.1
        assert found.ratio[1] == found.ratio_low[1] == found.ratio_high[1] == 1.0


def test_each_engine_gets_as_many_turns_as_the_others_forwards_and_backwards() -> None:
    seen: list[str] = []

    def timer(name: str, milliseconds: float) -> Callable[[], Timing]:
        def call() -> Timing:
            seen.append(name)
            return Timing(milliseconds)

        return call

    found = time_turns({"a": timer("a", 20.0), "b": timer("b", 10.0), "c": timer("c", 25.0)}, QUICK)
    assert found.fastest == "b" and found.median_ms == (20.0, 10.0, 25.0)
    assert found.ratio == pytest.approx((2.0, 1.0, 2.5)) and found.ratio_low == pytest.approx((2.0, 1.0, 2.5))
    assert found.median_of("c") == 25.0 and found.median_of("d") is None
    turns = "".join(seen)
    assert turns.endswith("aabbbccccbbbaa")
    assert len(found.rounds_ms) >= MIN_ROUNDS


def test_one_engine_takes_no_turns() -> None:
    with pytest.raises(UserInputError, match="1 engines cannot take turns"):
        time_turns({"a": lambda: Timing(1.0)}, QUICK)
