"""The few special functions that the statistics need, in numpy, so that the base install can judge.

Checked against SciPy in the tests to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
_TINY = 1e-300
FEW = 100
"""Up to so many terms a binomial distribution function is summed."""
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    return _NORMAL.inv_cdf(probability)


def normal_cdf(value: float) -> float:
    """Distribution function of the standard normal distribution."""
    return _NORMAL.cdf(value)


def log_gamma(value: ArrayLike) -> Floats:
    """Logarithm of the gamma function for positive arguments (Stirling's series after a shift beyond 10)."""
    x = np.array(value, dtype=np.float64)
    shift = np.zeros_like(x)
    while (small := x < 10).any():
        shift[small] += np.log(x[small])
        x = x + small
    series = np.zeros_like(x)
    for k, coefficient in enumerate(_STIRLING):
        series += coefficient / x ** (2 * k + 1)
    result: Floats = (x - 0.5) * np.log(x) - x + 0.5 * math.log(2 * math.pi) + series - shift
    return result


def beta_cdf(x: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """Regularised incomplete beta function I_x(a, b), elementwise, for a, b > 0.

    Lentz's evaluation of the continued fraction (NIST DLMF 8.17.22), on the side where it converges fast.
    """
    x, a, b = (np.array(item, dtype=np.float64) for item in np.broadcast_arrays(x, a, b))
    result = np.where(x >= 1, 1.0, 0.0)
    inside = (x > 0) & (x < 1)
    x, a, b = x[inside], a[inside], b[inside]
    if x.size == 0:
        return result
    flip = x > (a + 1) / (a + b + 2)
    p, q, y = np.where(flip, b, a), np.where(flip, a, b), np.where(flip, 1 - x, x)
    front = log_gamma(p + q) - log_gamma(p) - log_gamma(q) + p * np.log(y) + q * np.log1p(-y)
    value = np.exp(front) * _fraction(p, q, y) / p
    result[inside] = np.clip(np.where(flip, 1 - value, value), 0, 1)
    return result


def _fraction(p: Floats, q: Floats, y: Floats) -> Floats:
    """The continued fraction of the incomplete beta function."""
    c = np.ones_like(y)
    d = 1 / _away(1 - (p + q) * y / (p + 1))
    h = d.copy()
    for m in range(1, 2000):
        even = m * (q - m) * y / ((p + 2 * m - 1) * (p + 2 * m))
        d = 1 / _away(1 + even * d)
        c = _away(1 + even / c)
        h *= d * c
        odd = -(p + m) * (p + q + m) * y / ((p + 2 * m) * (p + 2 * m + 1))
        d = 1 / _away(1 + odd * d)
        c = _away(1 + odd / c)
        step = d * c
        h *= step
        if np.abs(step - 1).max() < 1e-13:
            break
    return h


def _away(value: Floats) -> Floats:
    """``value`` with zeros moved to a tiny number."""
    return np.where(np.abs(value) < _TINY, _TINY, value)


def binomial_cdf(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Floats:
    """P(X <= k) for X ~ Binomial(n, p), elementwise; k below 0 gives 0, k at or above n gives 1."""
    k, n, p = (np.array(item, dtype=np.float64) for item in np.broadcast_arrays(k, n, p))
    inner = (k >= 0) & (k < n)
    result = np.where(k < 0, 0.0, 1.0)
    few = inner & (k <= FEW) & (p < 0.9) & (n * np.log1p(-np.minimum(p, 0.9)) > -600)
    result[few] = _summed_cdf(k[few], n[few], p[few])
    many = inner & ~few
    result[many] = beta_cdf(1 - p[many], n[many] - k[many], k[many] + 1)
    return result


def _summed_cdf(k: Floats, n: Floats, p: Floats) -> Floats:
    """P(X <= k) term by term, for small k and a probability of zero that does not underflow."""
    term = np.exp(n * np.log1p(-p))
    total, odds = term.copy(), p / (1 - p)
    for i in range(int(k.max(initial=0))):
        term = term * odds * (n - i) / (i + 1)
        total += np.where(i < k, term, 0.0)
    return np.minimum(total, 1.0)


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> Floats:
    """log(0!) … log(n!)."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def binomial_pmf(k: NDArray[np.intp], n: int | NDArray[np.intp], p: Floats) -> Floats:
    """P(X = k) for X ~ Binomial(n, p), broadcast over k, n and p, for 0 <= k <= n and 0 <= p <= 1."""
    table = _log_factorials(int(np.max(n, initial=0)))
    choose = table[n] - table[k] - table[n - k]
    hits = np.where(k > 0, k * np.log(np.maximum(p, _TINY)), 0.0)
    misses = np.where(n > k, (n - k) * np.log(np.maximum(1 - p, _TINY)), 0.0)
    result: Floats = np.exp(choose + hits + misses)
    return result


def _scalar_beta_cdf(x: float, a: float, b: float) -> float:
    """:func:`beta_cdf` of one value, without the price of arrays."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    flip = x > (a + 1) / (a + b + 2)
    p, q, y = (b, a, 1 - x) if flip else (a, b, x)
    c, d = 1.0, 1 / ((1 - (p + q) * y / (p + 1)) or _TINY)
    h = d
    for m in range(1, 5000):
        even = m * (q - m) * y / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * y / ((p + 2 * m) * (p + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or _TINY)
            c = (1 + term / c) or _TINY
            h *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    front = math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q) + p * math.log(y) + q * math.log1p(-y)
    value = math.exp(front) * h / p
    return 1 - value if flip else value


def _scalar_binomial_cdf(k: int, n: int, p: float) -> float:
    if k < 0 or k >= n:
        return float(k >= n)
    return _scalar_beta_cdf(1 - p, n - k, k + 1)


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided exact bounds (lower, upper) of a proportion, each at ``confidence`` (Clopper and Pearson 1934)."""
    alpha = 1 - confidence
    lower = 0.0 if successes == 0 else _root(lambda p: 1 - _scalar_binomial_cdf(successes - 1, n, p) - alpha)
    upper = 1.0 if successes == n else _root(lambda p: alpha - _scalar_binomial_cdf(successes, n, p))
    return lower, upper


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution for ``probability`` above one half; ``freedom`` need not be whole."""
    if not math.isfinite(freedom) or freedom > 1e7:
        return normal_quantile(probability)
    tail = 2 * (1 - probability)
    x = _root(lambda value: _scalar_beta_cdf(value, freedom / 2, 0.5) - tail)
    return math.sqrt(freedom * (1 - x) / max(x, _TINY))


def _root(rising: Callable[[float], float], low: float = 0.0, high: float = 1.0) -> float:
    """Zero of a rising function on an interval: regula falsi (Illinois), every third step a bisection."""
    below, above = rising(low), rising(high)
    last = 0
    for step in range(200):
        middle = (low + high) / 2
        if step % 3 < 2 and above > below:
            chord = high - above * (high - low) / (above - below)
            middle = chord if low < chord < high else middle
        if middle in (low, high) or high - low <= 1e-16:
            break
        value = rising(middle)
        if value < 0:
            low, below = middle, value
            above = above / 2 if last < 0 else above
            last = -1
        else:
            high, above = middle, value
            below = below / 2 if last > 0 else below
            last = 1
    return (low + high) / 2


def binomial_quantile(probability: float, n: int, p: float) -> int:
    """The smallest k with P(Binomial(n, p) <= k) >= ``probability``."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if _scalar_binomial_cdf(middle, n, p) >= probability:
            high = middle
        else:
            low = middle
    return high
