"""Bounds against SciPy, against enumeration, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special as oracle
from scipy import stats

from edgeship.decide import distributions, statistics


def test_the_incomplete_beta_function_is_scipys():
    random = np.random.default_rng(0)
    a, b = 10 ** random.uniform(-1, 5, (2, 5000))
    x = np.clip(random.beta(a, b) * random.uniform(0.8, 1.2, 5000), 0, 1)
    assert np.abs(distributions.beta_cdf(x, a, b) - oracle.betainc(a, b, x)).max() < 1e-9
    assert np.abs(distributions.log_gamma(a) - oracle.gammaln(a)).max() < 1e-9 * np.abs(oracle.gammaln(a)).max()


@given(k=st.integers(-1, 60), n=st.integers(1, 50), p=st.just(0.0) | st.floats(1e-200, 1))
def test_binomial_functions_are_scipys(k, n, p):
    assert float(distributions.binomial_cdf(k, n, p)) == pytest.approx(stats.binom.cdf(k, n, p), abs=1e-10)
    if 0 <= k <= n:
        assert float(distributions.binomial_pmf(np.array(k), n, np.array(p))) == pytest.approx(
            stats.binom.pmf(k, n, p), abs=1e-10
        )


@given(k=st.integers(0, 500), n=st.integers(1, 500))
@settings(max_examples=50)
def test_clopper_pearson_is_the_beta_quantile(k, n):
    k = min(k, n)
    lower, upper = distributions.clopper_pearson(k, n, 0.95)
    assert lower == pytest.approx(stats.beta.ppf(0.05, k, n - k + 1) if k else 0.0, abs=1e-9)
    assert upper == pytest.approx(stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0, abs=1e-9)


@pytest.mark.parametrize("freedom", [1.0, 1.7, 5, 50, 1e4, 1e9])
def test_the_t_quantile_is_scipys(freedom):
    assert distributions.t_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.95, freedom), rel=1e-8)


def test_nothing_lost_is_the_rule_of_three():
    bound = statistics.paired_upper(0, 0, 300, 0.95)
    assert bound == pytest.approx(1 - 0.05 ** (1 / 300), rel=0.02)
    assert bound >= 1 - 0.05 ** (1 / 300)


@pytest.mark.parametrize("drop", [0.02, 0.05, 0.1])
def test_the_exact_test_rejects_a_true_drop_at_most_as_often_as_promised(drop):
    """Every outcome of 40 pairs is enumerated: the size is the probability of p <= 0.05, at any nuisance value."""
    n = 40
    lost, gained = np.array([(b, c) for b in range(n + 1) for c in range(min(n - b, 12) + 1) if b - c < n * drop]).T
    p = np.array(
        [statistics.paired_p_value(b, c, n, drop) for b, c in zip(lost.tolist(), gained.tolist(), strict=True)]
    )
    hits = p <= 0.05
    sizes = []
    for nuisance in np.linspace(1e-4, 0.12, 25):
        rates = [nuisance + drop, nuisance, 1 - 2 * nuisance - drop]
        counts = np.stack([lost, gained, n - lost - gained], axis=1)[hits]
        sizes.append(stats.multinomial.pmf(counts, n, rates).sum() if len(counts) else 0.0)
    assert max(sizes) <= 0.0501
    assert max(sizes) > 0.02 or drop == 0.02


@pytest.mark.parametrize(
    ("lost", "gained", "n", "drop"),
    [(0, 0, 30, 0.1), (3, 1, 40, 0.2), (2, 9, 60, 0.05), (20, 3, 60, -0.1), (5, 5, 11, 0.6)],
)
def test_the_p_value_is_the_sum_over_every_outcome(lost, gained, n, drop):
    b, c = np.array([(b, c) for b in range(n + 1) for c in range(n - b + 1)]).T
    order = statistics.score_statistic(b, c, n, drop)
    extreme = order <= statistics.score_statistic(lost, gained, n, drop) + 1e-9
    low = max(stats.beta.ppf(0.0005, gained, n - gained + 1) if gained else 0.0, 0.0, -drop)
    high = min(stats.beta.ppf(0.9995, gained + 1, n - gained), (1 - drop) / 2)
    counts = np.stack([b, c, n - b - c], axis=1)[extreme]
    chances = [
        stats.multinomial.pmf(counts, n, [rate + drop, rate, max(0.0, 1 - 2 * rate - drop)]).sum()
        for rate in np.linspace(min(low, high), high, statistics.GRID)
    ]
    expected = min(1.0, max(chances) + statistics.NUISANCE)
    assert statistics.paired_p_value(lost, gained, n, drop) == pytest.approx(expected, abs=1e-6)


@given(lost=st.integers(0, 15), gained=st.integers(0, 15), extra=st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_the_bound_is_where_the_test_turns(lost, gained, extra):
    n = lost + gained + extra + 1
    bound = statistics.paired_upper(lost, gained, n, 0.95)
    estimate = (lost - gained) / n
    assert estimate < bound <= 1
    if bound < 1:
        assert statistics.paired_p_value(lost, gained, n, bound) <= 0.05
        assert statistics.paired_p_value(lost, gained, n, estimate + 0.9 * (bound - estimate)) > 0.045


def test_the_lower_side_of_the_interval_is_close_to_the_exact_one():
    one = statistics.paired_interval(7, 3, 200, 0.95)
    assert one.upper == statistics.paired_upper(7, 3, 200, 0.95)
    assert one.lower == pytest.approx(-statistics.paired_upper(3, 7, 200, 0.95), abs=0.004)
    assert one.lower < 0.02 < one.upper


@pytest.mark.parametrize("n", [50, 101, 5000])
def test_summed_and_continued_fractions_meet(n):
    k = np.arange(min(n, 3 * distributions.FEW))
    for p in (1e-6, 0.01, 0.3, 0.89, 0.95):
        assert np.abs(distributions.binomial_cdf(k, n, p) - stats.binom.cdf(k, n, p)).max() < 1e-12


def test_a_shown_margin_is_never_zero():
    assert statistics.jackknife_margin(np.zeros(100), 300, 0.95) == pytest.approx(0.00994, abs=1e-4)


def test_as_many_images_as_advised_decide():
    lost, gained, n, limit = 12, 10, 400, 0.02
    assert statistics.paired_upper(lost, gained, n, 0.95) > limit
    more = statistics.paired_images_needed(lost, gained, n, limit, 0.95)
    assert more is not None
    scale = (n + more) / n
    assert statistics.paired_upper(round(lost * scale), round(gained * scale), n + more, 0.95) <= limit * 1.1
    half = (n + more / 3) / n
    assert statistics.paired_upper(round(lost * half), round(gained * half), round(n * half), 0.95) > limit


def test_no_number_of_images_proves_a_drop_beyond_the_limit():
    assert statistics.paired_images_needed(10, 0, 100, 0.05, 0.95) is None
    assert statistics.paired_images_needed(1, 1, 100, 0.0, 0.95) is None
    assert statistics.bootstrap_images_needed(0.1, 0.2, 100, 0.05, 0.95) is None


def test_bootstrap_weights_count_every_image_once_on_average():
    weights = statistics.resampling(50, 400)
    assert weights.shape == (400, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert np.array_equal(weights, statistics.resampling(50, 400))
    left = statistics.leave_out(50, 10)
    assert left.shape == (10, 50)
    assert ((left == 0).sum(axis=1) == 5).all()
    assert np.allclose(left.sum(axis=1), 50)


def bootstrap(values: np.ndarray, confidence: float = 0.95) -> float:
    n = len(values)
    replicates = statistics.resampling(n, 1000) @ values / n
    influence = statistics.leave_out(n) @ values / n
    return statistics.bootstrap_upper(float(values.mean()), replicates, influence, n, confidence)


def test_the_bootstrap_agrees_with_theory_on_many_normal_values():
    values = np.random.default_rng(3).normal(0.01, 0.1, 2000)
    theory = values.mean() + 1.645 * values.std(ddof=1) / math.sqrt(2000)
    assert bootstrap(values) == pytest.approx(theory, abs=0.0008)


def test_images_that_all_agree_still_leave_the_unseen_possible():
    assert bootstrap(np.zeros(100)) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert bootstrap(np.full(100, 0.2)) == pytest.approx(0.2)


def test_a_drop_that_sits_in_two_images_is_known_badly():
    values = np.zeros(200)
    values[:2] = 0.5
    spread = np.random.default_rng(0).normal(0.005, values.std(), 200)
    assert bootstrap(values) > bootstrap(spread - spread.mean() + values.mean()) * 1.3


def test_broken_replicates_give_no_bound():
    assert math.isnan(statistics.bootstrap_upper(0.1, np.array([0.1, np.nan]), np.array([0.1, 0.2]), 20, 0.95))
    assert statistics.bootstrap_upper(0.1, np.array([0.1]), np.array([0.1]), 1, 0.95) == math.inf


def test_299_samples_bound_the_99th_percentile_and_298_do_not():
    samples = np.random.default_rng(0).permutation(np.arange(299.0))
    assert statistics.quantile_upper(samples, 0.99, 0.95) == 298.0
    assert statistics.quantile_upper(samples[:298], 0.99, 0.95) == math.inf


def test_the_bound_of_a_quantile_covers_it():
    random = np.random.default_rng(1)
    true = stats.lognorm(0.3).ppf(0.9)
    covered = [statistics.quantile_upper(random.lognormal(0, 0.3, 300), 0.9, 0.95) >= true for _ in range(400)]
    assert np.mean(covered) > 0.92


def test_calls_that_are_alike_pay_for_the_looks_of_the_benchmark():
    random = np.random.default_rng(3)
    alike = np.repeat(random.normal(size=400), 5)
    once = statistics.quantile_upper(alike, 0.5, 0.95, looked=False)
    assert np.median(alike) < once < statistics.quantile_upper(alike, 0.5, 0.95) < math.inf
    assert statistics.quantile_upper(np.repeat(random.normal(size=20), 50), 0.5, 0.95) == math.inf


def test_lower_and_upper_bounds_of_the_median_stand_around_it():
    samples = np.random.default_rng(2).normal(5, 1, 501)
    low, high = (f(samples, 0.5, 0.95) for f in (statistics.quantile_lower, statistics.quantile_upper))
    assert low < np.median(samples) < high < 5.3


def test_the_advice_is_round():
    assert statistics.more(1234, 1000) == 240
    assert statistics.more(10, 1000) == 1
