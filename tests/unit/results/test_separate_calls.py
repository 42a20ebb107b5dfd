"""How much calls that follow one another tell."""

from __future__ import annotations

import numpy as np

from edgeship.results.separate_calls import calls_needed, effective_calls, effective_samples, samples_needed


def test_calls_that_are_slow_together_count_as_few() -> None:
    random = np.random.default_rng(1)
    alone = random.exponential(size=2400)
    together = np.where(np.arange(2400) % 600 < 30, 10.0, 1.0) + random.random(2400) * 0.01
    assert effective_calls(alone, 0.95) > 1200
    assert effective_calls(together, 0.95) < 240


def test_never_more_than_the_gate_counts() -> None:
    random = np.random.default_rng(2)
    for stretch in (1, 5, 40, 300):
        values = np.repeat(random.random(1 + 1200 // stretch), stretch)
        for level in (0.5, 0.9, 0.99):
            assert effective_calls(values, level) <= effective_samples(values, level)


def test_samples_that_repeat_themselves_count_less() -> None:
    independent = np.random.default_rng(0).normal(size=1000)
    assert effective_samples(independent, 0.5) > 600
    assert effective_samples(np.repeat(independent[:50], 20), 0.5) < 150
    assert effective_samples(np.ones(100), 0.5) == 100


def test_the_calls_that_a_bound_takes() -> None:
    assert (calls_needed(0.99), calls_needed(0.9), calls_needed(0.5)) == (459, 44, 7)
    assert samples_needed(0.99, 0.95) == 299
