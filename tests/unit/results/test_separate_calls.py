"""How much calls that follow one another tell."""

from __future__ import annotations

import numpy as np

from edgeship.results.separate_calls import (
    RELIABLE,
    alike,
    calls_needed,
    effective_calls,
    effective_samples,
    reliable,
    samples_needed,
)


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


def test_of_alike_calls_enough_must_be_separate_to_count_them() -> None:
    assert (reliable(40), reliable(10_000)) == (10, RELIABLE)
    assert calls_needed(0.5, 10_000) == RELIABLE
    assert calls_needed(0.99, 10_000) == 459
    assert alike(100, 60) and not alike(100, 100)


def test_the_number_of_separate_calls_is_seldom_overstated() -> None:
    """Three calls of ten are slow, in stretches of twenty: 1,000 tell as much of the median as about 75."""
    random, found = np.random.default_rng(4), []
    for _ in range(200):
        lengths = np.stack([random.geometric(0.3 / 0.7 / 20, 60), random.geometric(1 / 20, 60)]).T.ravel()
        state = np.repeat(np.tile([1.0, 1.5], 60), lengths)[:1000]
        values = state * np.exp(random.normal(0, 0.03, 1000))
        found.append((effective_calls(values, 0.5), effective_samples(values, 0.5)))
    cautious, plain = np.mean(np.array(found) > 150, axis=0)
    assert cautious < plain
    assert cautious < 0.15
