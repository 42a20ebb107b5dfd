"""The speed-up of engines that took turns, and what the gate makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.decide.paired_times import paired_speedup
from edgeship.trial.turns import compare_rounds

ROUNDS = np.exp(np.random.default_rng(0).normal(0, 0.02, (40, 2))) * np.array([2.0, 1.0])
TURNS = compare_rounds(["fp32", "int8"], ROUNDS)


def test_the_bound_lies_below_the_estimate() -> None:
    found = paired_speedup(TURNS, "fp32", "int8", 0.95)
    assert found is not None
    estimate, bound = found
    assert estimate == pytest.approx(2.0, rel=0.02)
    assert 1.9 < bound < estimate
    assert paired_speedup(TURNS, "fp32", "int8", 0.0) == (estimate, estimate)


def test_it_is_not_known_where_one_took_no_turn() -> None:
    assert paired_speedup(None, "fp32", "int8", 0.95) is None
    assert paired_speedup(TURNS, "fp32", "fp16", 0.95) is None
    assert paired_speedup(TURNS, "fp32", "fp32", 0.95) is None


def test_equal_engines_are_seldom_surely_faster() -> None:
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(200):
        turns = compare_rounds(["a", "b"], np.exp(random.normal(0, 0.03, (20, 2))))
        found = paired_speedup(turns, "a", "b", 0.95)
        assert found is not None
        wrong += found[1] > 1
    assert wrong / 200 <= 0.08, "5 %, and two standard errors of the simulation"
