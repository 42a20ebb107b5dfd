"""Confidence bounds that decide: of a drop on paired images, and of a quantile of latency. numpy alone.

Everything is one-sided, because the gate asks one thing: how bad may it really be? The sources and the limits of
each method stand in ``docs/explanation/statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeship.decide.distributions import (
    binomial_cdf,
    binomial_pmf,
    binomial_quantile,
    clopper_pearson,
    normal_cdf,
    normal_quantile,
    t_quantile,
)
from edgeship.results.separate_calls import LOOKED, alike, effective_calls, effective_samples, reliable

Floats = NDArray[np.float64]
NUISANCE = 0.001
"""Share of alpha-type error given to the confidence set of the nuisance parameter (Berger and Boos 1994)."""
GRID = 17
"""Values of the nuisance parameter that are searched for the largest p-value."""
NEAR = 3.0
"""Outcomes on either side of the large-sample one, among which the exact one is looked for first."""
FEW_IMAGES = 1000
"""Up to so many, advice is as fine as the exact test; beyond, within three in a hundred."""
MOST_IMAGES = 10_000_000
"""No advice asks for more labelled images than this."""
SMALL_SAMPLE = 1.5
"""The bootstrap's margin grows by this over the root of the number of images: set by simulation
(``benchmarks/false_ship.py``), mostly by average precision, whose estimate and standard error rise together."""
GROUPS = 100
"""Groups of images that are left out in turn by the jackknife."""


@dataclass(frozen=True)
class Interval:
    """An estimate with a lower and an upper one-sided bound. Positive is worse."""

    estimate: float
    lower: float
    upper: float


# --- paired proportions: top-1, recall of a class -------------------------------------------------------------


def score_statistic(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, drop: ArrayLike) -> Floats:
    """Tango's score statistic of H0: true drop = ``drop`` (Statistics in Medicine 17:891-908, 1998), elementwise.

    Args:
        lost: Examples that the reference got right and the candidate wrong.
        gained: Examples that only the candidate got right.
        n: All examples.
        drop: The hypothetical drop of the success probability, in (-1, 1).
    """
    b, c, count, d = (np.asarray(item, dtype=np.float64) for item in (lost, gained, n, drop))
    linear = d * (2 * count - b + c) - b - c
    root = np.sqrt(np.maximum(linear**2 + 8 * count * c * d * (1 - d), 0))
    nuisance = np.maximum((root - linear) / (4 * count), np.maximum(0.0, -d))
    variance = count * np.maximum(2 * nuisance + d - d * d, 0)
    difference = b - c - count * d
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = difference / np.sqrt(variance)
    result: Floats = np.where(np.abs(difference) < 1e-12 * count, 0.0, statistic)
    return result


def paired_p_value(lost: int, gained: int, n: int, drop: float) -> float:
    """Exact unconditional p-value of H0: the true drop is at least ``drop``.

    Outcomes are ordered by Tango's score statistic. The probability of an outcome at least as favourable is
    maximised over the nuisance parameter within a 99.9 % confidence set, and 0.001 is added (Hsueh, Liu and Chen,
    Biometrics 57:478-483, 2001; Berger and Boos, JASA 89:1012-1016, 1994): valid at every sample size.
    """
    if lost + gained > n:
        raise ValueError(f"{lost} + {gained} discordant examples among {n}")
    low, high = _nuisance_set(gained, n, drop)
    rates = np.linspace(low, high, GRID)
    first = max(0, math.floor(n * low - 8 * math.sqrt(n * low) - 5))
    last = min(n, math.ceil(n * high + 8 * math.sqrt(n * high) + 25))
    counts = np.arange(first, last + 1)
    others = counts.astype(np.float64)
    observed = float(score_statistic(lost, gained, n, drop))
    most = _most_lost(others, n, drop, observed)
    weight = binomial_pmf(counts[None, :], n, rates[:, None])
    chance = np.clip((rates + drop) / (1 - rates), 0, 1)
    tail = _tails(most, n - counts, chance)
    return min(1.0, float((weight * tail).sum(axis=1).max()) + NUISANCE)


def _tails(most: Floats, trials: NDArray[np.intp], chance: Floats) -> Floats:
    """P(Binomial(trials, chance) <= most) for trials that fall by one from each to the next: [chances, trials].

    Only the first is summed from its terms. With one trial fewer, a value of at most k is more likely by chance times
    the probability of exactly k; each value more that ``most`` allows adds its own probability.
    """
    bound = np.maximum.accumulate(most).astype(np.intp)
    rise = np.zeros((len(chance), len(trials)))
    rise[:, 0] = binomial_cdf(bound[0], trials[0], chance)
    for step in range(int(np.diff(bound).max(initial=0)) + 1):
        value, fewer = bound[:-1] + step, trials[1:]
        used = np.flatnonzero((value >= 0) & (value <= fewer) & ((step == 0) | (value <= bound[1:])))
        exactly = binomial_pmf(value[used][None, :], fewer[used][None, :], chance[:, None])
        rise[:, used + 1] += exactly if step else chance[:, None] * exactly
    result: Floats = np.minimum(np.cumsum(rise, axis=1), 1.0)
    return result


def _nuisance_set(gained: int, n: int, drop: float) -> tuple[float, float]:
    """A confidence set for the probability that only the candidate is right, within what ``drop`` allows."""
    low, high = clopper_pearson(gained, n, 1 - NUISANCE / 2)
    floor, ceiling = max(0.0, -drop), (1 - drop) / 2
    return min(max(low, floor), ceiling), min(max(high, floor), ceiling)


def _most_lost(others: Floats, n: int, drop: float, observed: float) -> Floats:
    """For each number gained, the largest number lost whose statistic is at most ``observed``; -1: none.

    Bisected between the neighbours of what the large-sample form of the statistic says, where they hold it.
    """

    def fitting(lost: Floats) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = score_statistic(np.maximum(lost, 0), others, n, drop) <= observed + 1e-9
        return inside & (lost >= 0)

    share = 2 * others + n * drop
    root = np.sqrt(np.maximum(share - n * drop * drop, 0))
    guess = np.floor(others + n * drop + observed * root + observed**2 * others / np.maximum(share, 1e-9))
    low, high = np.clip(guess - NEAR, -1, n - others), np.clip(guess + NEAR, 0, n - others + 1)
    low = np.where((low == -1) | fitting(low), low, -1.0)
    high = np.where((high == n - others + 1) | ~fitting(high), high, n - others + 1)
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        fits = fitting(middle)
        open_ = high - low > 1
        low = np.where(open_ & fits, middle, low)
        high = np.where(open_ & ~fits, middle, high)
    return low


def score_upper(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, confidence: float) -> Floats:
    """Tango's score upper bound of the drop, elementwise over classes. Close, but not guaranteed: for display."""
    b, c, count = (np.asarray(item, dtype=np.float64) for item in (lost, gained, n))
    z = normal_quantile(1 - confidence)
    low, high = (b - c) / count, np.ones_like(count)
    for _ in range(27):
        middle = (low + high) / 2
        inside = score_statistic(b, c, count, middle) > z
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    result: Floats = high
    return result


@lru_cache(maxsize=4096)
def score_bounds(lost: int, gained: int, n: int, confidence: float) -> tuple[float, float]:
    """The score bounds of the drop and of the gain; of a thousand classes with few examples, few differ."""
    upper, negative = score_upper([lost, gained], [gained, lost], n, confidence)
    return float(upper), float(negative)


@lru_cache(maxsize=4096)
def paired_upper(lost: int, gained: int, n: int, confidence: float) -> float:
    """Exact one-sided upper bound of the drop in success probability: :func:`paired_p_value` inverted.

    ``lost`` and ``gained`` count the examples that changed among ``n``. Returns 1.0 when nothing can be said.
    """
    if n == 0:
        return 1.0
    alpha = 1 - confidence
    estimate = (lost - gained) / n
    start = score_bounds(lost, gained, n, confidence)[0]
    step = max((start - estimate) * 0.02, 1e-4 / n)
    low, high = estimate, min(1.0, start + step)
    while high < 1 and paired_p_value(lost, gained, n, high) > alpha:
        low, step = high, step * 4
        high = min(1.0, start + step)
    tolerance = max((high - estimate) * 0.01, 1e-9)
    probe = max(low, high - 2 * step)
    while high - low > tolerance:
        if paired_p_value(lost, gained, n, probe) <= alpha:
            high = probe
        else:
            low = probe
        probe = (low + high) / 2
    return high


def paired_interval(lost: int, gained: int, n: int, confidence: float) -> Interval:
    """The drop of a success probability: the upper bound, which decides, is exact; the lower is the score bound."""
    if n == 0:
        return Interval(math.nan, -1.0, 1.0)
    lower = -score_bounds(lost, gained, n, confidence)[1]
    return Interval((lost - gained) / n, lower, paired_upper(lost, gained, n, confidence))


@lru_cache(maxsize=4096)
def paired_images_needed(lost: int, gained: int, n: int, limit: float, confidence: float) -> int | None:
    """About how many more examples would bring the exact bound within ``limit`` if the rates stay; None: none would.

    The score test, which is quick, gives the first guess; the exact test, which decides, has the last word.
    """
    estimate = (lost - gained) / n if n else 0.0
    if estimate >= limit or limit <= 0 or n == 0:
        return None
    rates = lost / n, gained / n
    low, high = n, n * 2
    while high < MOST_IMAGES and not _scored(*rates, high, limit, confidence):
        low, high = high, high * 2
    if high >= MOST_IMAGES:
        return None
    while high - low > 1 + (high - n) // 100:
        middle = (low + high) // 2
        low, high = (low, middle) if _scored(*rates, middle, limit, confidence) else (middle, high)
    low = n
    while high < MOST_IMAGES and not _enough(*rates, high, limit, confidence):
        low, high = high, math.ceil(high * 1.03) + 1
    while high < FEW_IMAGES and high - low > 1 + (high - n) // 50:
        middle = (low + high) // 2
        low, high = (low, middle) if _enough(*rates, middle, limit, confidence) else (middle, high)
    return more(high, n)


def _scored(lost: float, gained: float, n: int, limit: float, confidence: float) -> bool:
    """As :func:`_enough` by the score test, and enough images to rule out what none of them shows."""
    statistic = float(score_statistic(lost * n, gained * n, n, limit))
    return statistic <= normal_quantile(1 - confidence) and n >= unseen_images(limit, confidence)


def _enough(lost: float, gained: float, n: int, limit: float, confidence: float) -> bool:
    """Whether ``n`` examples at these rates pass the exact test."""
    return paired_p_value(round(lost * n), round(gained * n), n, limit) <= 1 - confidence


def unseen_images(limit: float, confidence: float) -> float:
    """Examples without any loss that are needed before a loss rate of ``limit`` can be ruled out (about 3/limit)."""
    return math.log(1 - confidence) / math.log1p(-limit) if limit < 1 else 1.0


def unseen_bound(n: int, confidence: float) -> float:
    """What ``n`` images that all agree leave possible: the share of images where the candidate could still fail."""
    return 1 - (1 - confidence) ** (1 / n) if n else 1.0


def more(needed: float, n: int) -> int:
    """``needed - n`` rounded up to two digits, at least 1."""
    missing = max(1.0, needed - n)
    unit = 10 ** max(0, math.floor(math.log10(missing)) - 1)
    return int(math.ceil(missing / unit) * unit)


# --- the paired bootstrap: mAP, mIoU, anything else -------------------------------------------------------------

Weighted = Callable[[Floats], Floats]
"""Image multiplicities [B, images] → the drop for each of the B weightings."""


def resampling(images: int, resamples: int, seed: int = 0, *, behind: int = 0) -> Floats:
    """Multiplicities of ``resamples`` bootstrap samples of ``images`` images, float64 [resamples + behind, images].

    ``behind`` zero rows follow, for the caller to fill.
    """
    generator = np.random.default_rng(seed)
    result = np.zeros((resamples + behind, images))
    if images == 0:
        return result
    for row in result[:resamples]:
        row[:] = np.bincount(generator.integers(0, images, images, dtype=np.int32), minlength=images)
    return result


def leave_out(images: int, groups: int = GROUPS) -> Floats:
    """Weights of the grouped jackknife: each row leaves one group of images out, the rest scaled to ``images``."""
    count = min(images, groups)
    member = np.random.default_rng(1).permutation(images) % max(count, 1)
    kept = (np.arange(count)[:, None] != member[None, :]).astype(np.float64)
    total = kept.sum(axis=1, keepdims=True)
    result: Floats = kept * images / np.maximum(total, 1)
    return result


def bootstrap_upper(estimate: float, replicates: Floats, influence: Floats, images: int, confidence: float) -> float:
    """Upper bound of a drop from paired bootstrap replicates: BCa with small-sample care.

    The quantile is bias-corrected and accelerated (Efron, JASA 82:171-185, 1987); in place of the normal quantile
    stands Student's t with degrees of freedom from the kurtosis of the images' influence, because a drop that sits
    in few images is known from few images. The bound is never below estimate + t · standard error; where no
    image changed at all it is what images that all agree leave possible.

    Args:
        estimate: The observed drop.
        replicates: Drops of the bootstrap samples, [B].
        influence: Drops of the grouped jackknife, [G].
        images: Number of images.
        confidence: One-sided.

    Returns:
        The bound; ``nan`` when a replicate is not finite, ``inf`` when there are fewer than two images.
    """
    if images < 2:
        return math.inf
    if not (np.isfinite(replicates).all() and np.isfinite(influence).all()):
        return math.nan
    floor = max(estimate, unseen_bound(images, confidence))
    values = influence.mean() - influence
    square = float((values**2).sum())
    if square <= 1e-24 or float(np.ptp(replicates)) <= 1e-12:
        return floor
    t = t_quantile(confidence, _freedom(values))
    acceleration = float((values**3).sum()) / (6 * square**1.5)
    below = (np.count_nonzero(replicates < estimate) + 0.5 * np.count_nonzero(replicates == estimate)) / len(replicates)
    bias = normal_quantile(min(max(below, 1e-3), 1 - 1e-3))
    shifted = bias + t
    slope = 1 - acceleration * shifted
    level = normal_cdf(bias + shifted / slope) if slope > 0 else 1.0
    bca = float(np.quantile(replicates, level, method="higher"))
    normal = estimate + t * float(replicates.std(ddof=1))
    return estimate + (max(bca, normal) - estimate) * (1 + SMALL_SAMPLE / math.sqrt(images))


def jackknife_margin(influence: Floats, images: int, confidence: float) -> float:
    """t · standard error of a statistic from the drops of the grouped jackknife, [G]. For display, not for a rule.

    Where no group moves the statistic, the margin is what ``images`` that all agree leave possible.
    """
    groups = len(influence)
    if groups < 2:
        return math.inf
    values = influence - influence.mean()
    square = float((values**2).sum())
    if square <= 1e-24:
        return unseen_bound(images, confidence)
    return t_quantile(confidence, _freedom(values)) * math.sqrt((groups - 1) / groups * square)


def _freedom(values: Floats) -> float:
    """Degrees of freedom of the variance of ``values``: 2 G / (kurtosis - (G - 3) / (G - 1)), at least 1."""
    groups = len(values)
    kurtosis = groups * float((values**4).sum()) / float((values**2).sum()) ** 2
    excess = kurtosis - (groups - 3) / (groups - 1)
    return max(1.0, min(groups - 1.0, 2 * groups / excess)) if excess > 0 else groups - 1.0


def bootstrap_images_needed(estimate: float, bound: float, images: int, limit: float, confidence: float) -> int | None:
    """About how many more images would bring a bootstrap bound within ``limit``; None: none would."""
    if not (math.isfinite(bound) and estimate < limit):
        return None
    needed = images * ((bound - estimate) / (limit - estimate)) ** 2
    return more(max(needed, unseen_images(limit, confidence)), images)


# --- latency ----------------------------------------------------------------------------------------------------


def quantile_upper(samples: Floats, probability: float, confidence: float, *, looked: bool = True) -> float:
    """Upper bound of a quantile from order statistics, corrected for autocorrelation.

    The r-th smallest sample bounds the quantile when P(Binomial(n, probability) < r) >= confidence (David and
    Nagaraja, Order Statistics, 7.1): no distribution is assumed. Successive calls of an engine are not independent,
    so r is chosen for the effective number of samples. ``looked``: they were made until they seemed to be enough; then
    it is the cautious :func:`effective_calls`, and samples that are alike pay for the looks with a higher confidence.

    Returns:
        The bound, or ``inf`` when there are too few samples for one.
    """
    n = len(samples)
    found = effective_calls(samples, probability) if looked else effective_samples(samples, probability)
    if looked and alike(n, found):
        if found < reliable(n):
            return math.inf
        confidence = 1 - (1 - confidence) / LOOKED
    effective = max(1, math.floor(found))
    rank = binomial_quantile(confidence, effective, probability) + 1
    if rank > effective:
        return math.inf
    position = min(n, math.ceil(rank * n / effective))
    return float(np.partition(samples, position - 1)[position - 1])


def quantile_lower(samples: Floats, probability: float, confidence: float) -> float:
    """Lower bound of a quantile, as :func:`quantile_upper`; ``-inf`` when there are too few samples."""
    return -quantile_upper(-samples, 1 - probability, confidence)
