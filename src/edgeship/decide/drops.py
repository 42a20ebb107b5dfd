"""What a candidate lost against the reference, paired on the same images, with bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeship import metrics
from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.statistics import (
    Interval,
    bootstrap_upper,
    jackknife_margin,
    leave_out,
    more,
    paired_images_needed,
    paired_interval,
    resampling,
    score_bounds,
    unseen_images,
)
from edgeship.decide.support import Support, supports, widest
from edgeship.decide.units import Units, units_of
from edgeship.errors import DataError
from edgeship.metrics import losses, paired

Floats = NDArray[np.float64]
EXACT = "exact paired (Tango score, unconditional)"
SCORE = "paired score (Tango)"
JACKKNIFE = "jackknife over groups of images"
BOOTSTRAP = "paired bootstrap over {} (BCa, t)"
POINT = "point estimate (statistics off)"
IDENTICAL = "identical to the reference"
IDENTICAL_TO_RELEASE = "identical to the release"
UNTESTED = (IDENTICAL, IDENTICAL_TO_RELEASE)
"""Methods that leave nothing to chance."""


@dataclass(frozen=True)
class Drop:
    """A metric's drop: how much worse the candidate is, whether less or more is better.

    ``examples`` counts what it was measured on; ``discordant`` is (lost, gained) where exact.

    ``support`` is the class or metric whose unseen failures leave most possible; None where the bound is exact.
    """

    interval: Interval
    method: str
    examples: int
    discordant: tuple[int, int] | None = None
    support: Support | None = None
    spread: float = 0.0
    """Of a resampled drop: its bound beyond the estimate, before unseen failures are added."""

    def more_images(self, limit: float, confidence: float, images: int) -> int | None:
        """About how many more labelled images would bring the deciding bound within ``limit``; None: none would.

        The rates are taken to stay, and the images to hold as many examples each as those that are here.
        """
        estimate = self.interval.estimate
        if confidence == 0 or self.examples == 0 or limit <= 0 or estimate >= limit:
            return None
        if self.discordant is not None:
            needed = paired_images_needed(*self.discordant, self.examples, limit, confidence)
            return None if needed is None else math.ceil(needed * images / self.examples)
        units = self.support.units if self.support is not None else 0
        if units == 0 or not math.isfinite(self.spread):
            return None
        grown = self.spread / (limit - estimate)
        factor = max(1.0, grown**2)
        if self.support is not None and not self.support.failed and limit - estimate < self.support.cost:
            factor = max(factor, unseen_images((limit - estimate) / self.support.cost, confidence) / units)
        return more(images * factor, images)


@dataclass
class Reference:
    """The reference's records and what is computed from them once for all candidates."""

    records: Arrays
    confidence: float
    resamples: int
    examples: Mapping[str, int] = field(default_factory=dict)
    """Class name → labelled examples."""
    grouped: Units | None = None
    """What is independent of what; None: as the records say."""
    cache: dict[tuple[str, bool], Floats] = field(default_factory=dict)
    weights: dict[bool, Floats] = field(default_factory=dict)
    own: dict[str, Floats] = field(default_factory=dict)

    @cached_property
    def units(self) -> Units:
        """What is independent of what."""
        return units_of(self.records) if self.grouped is None else self.grouped

    @property
    def images(self) -> int:
        """Number of evaluation images."""
        return len(self.records["ids"])

    def support(self, name: str) -> int:
        """Images that can tell about a metric: those that hold an example of it and count."""
        return int(((losses.held(self.records, name) > 0) & (self.units.member >= 0)).sum())

    def unknown(self, name: str) -> int:
        """Images for which the reference gave no finite number of a metric of one's own."""
        values = self.records.get(f"value/{name}")
        return 0 if values is None else int((~np.isfinite(values) & (self.units.member >= 0)).sum())

    def weightings(self, decisive: bool) -> Floats:
        """Weights of the jackknife, after those of the bootstrap where a rule rests on it: [weightings, images]."""
        if decisive not in self.weights:
            self.weights[decisive] = self.units.spread(self.of_units(decisive))
        return self.weights[decisive]

    def of_units(self, decisive: bool) -> Floats:
        """The same weights by unit, which every image of it shares: [weightings, units]."""
        return _weights(self.units.count, self.resamples if decisive else 0)

    def once(self, names: Sequence[str]) -> dict[str, Floats]:
        """The reference's metrics as they are: float64 [1] by name."""
        missing = [name for name in names if name not in self.own]
        if missing:
            task = metrics.task_of(self.records)
            self.own.update(task.resample(self.records, self.units.once, missing))
        return {name: self.own[name] for name in names}

    def values(self, names: Sequence[str], decisive: bool) -> dict[str, Floats]:
        """The reference's metrics under every weighting."""
        missing = [name for name in names if (name, decisive) not in self.cache]
        if missing:
            made = self.resample(self.records, missing, decisive)
            self.cache.update({(name, decisive): values for name, values in made.items()})
        return {name: self.cache[name, decisive] for name in names}

    def resample(self, records: Arrays, names: Sequence[str], decisive: bool) -> dict[str, Floats]:
        """Metrics of records of the same images under every weighting: float64 [weightings] by name.

        A share is summed over each unit first, which gives the same figure from a smaller product.
        """
        task = metrics.task_of(records)
        found, others = {}, []
        for name in names:
            metric, _, class_name = name.partition("/")
            share = task.successes(records, metric, class_name or None)
            if share is None:
                others.append(name)
                continue
            weights = self.of_units(decisive)
            image = image_of(records, len(share[0]))
            total, right = (
                np.bincount(image[mask], minlength=self.images).astype(np.float64)
                for mask in (share[0], share[0] & share[1])
            )
            total, right = weights @ self.units.sums(total), weights @ self.units.sums(right)
            found[name] = np.divide(right, total, out=np.full(len(weights), np.nan), where=total > 0)
        return found | (task.resample(records, self.weightings(decisive), others) if others else {})


@lru_cache(maxsize=2)
def _weights(units: int, resamples: int) -> Floats:
    """Weights of the bootstrap, then those of the jackknife: [weightings, units]. Equal for all who ask."""
    jackknife = leave_out(units)
    if resamples == 0:
        return jackknife
    weights = resampling(units, resamples, behind=len(jackknife))
    weights[resamples:] = jackknife
    weights.flags.writeable = False
    return weights


def check_paired(reference: Arrays, candidate: Arrays, name: str) -> None:
    """Refuse to pair records of different images.

    Raises:
        DataError: Other images, another order, other labels, another task or other classes.
    """
    try:
        paired.require_same_images(reference, candidate)
    except DataError as error:
        raise DataError(f"{name} and the reference: {error.found}", expected=error.expected, do=error.do) from None


def unchanged(reference: Reference, names: Sequence[str], method: str = IDENTICAL) -> dict[str, Drop]:
    """The drops of a candidate that is the reference itself: zero, with nothing left to chance."""
    once = metrics.task_of(reference.records).resample(reference.records, reference.units.once, names)
    known = [name for name in names if math.isfinite(float(once[name][0]))]
    return {name: Drop(Interval(0.0, 0.0, 0.0), method, reference.support(name)) for name in known}


def measure(reference: Reference, candidate: Arrays, names: Sequence[str], exact: frozenset[str]) -> dict[str, Drop]:
    """The drops of metrics (``top1``) and of classes (``recall/person``).

    Args:
        reference: The reference's records.
        candidate: The candidate's, of the same images.
        names: What to measure.
        exact: Those among ``names`` that decide: they get the exact bound where one exists, the others, which are
            only shown, get the score bound.

    Returns:
        Name → drop. A name whose metric has no value on either side is absent, and so is one that the candidate has NaN
        for where the reference has a number.
    """
    task = metrics.task_of(reference.records)
    candidate, spoiled = paired.comparable(reference.records, candidate)
    found: dict[str, Drop] = {}
    others = []
    for name in names:
        if name in spoiled:
            continue
        metric, _, class_name = name.partition("/")
        before = task.successes(reference.records, metric, class_name or None)
        after = task.successes(candidate, metric, class_name or None)
        if before is None or after is None or not _independent(reference, before[0]):
            others.append(name)
            continue
        counts = _counts(before, after, image_of(reference.records, len(before[0])), reference.units)
        drop = _proportion(counts, reference.confidence, exact=name in exact)
        if drop is not None:
            found[name] = drop
    for decisive in (True, False):
        chosen = [name for name in others if (name in exact) == decisive]
        if chosen:
            found.update(_resampled(reference, candidate, chosen, decisive))
    return {name: found[name] for name in names if name in found}


def image_of(records: Arrays, examples: int) -> NDArray[np.int64]:
    """The image of each example of a share: int64 [examples]."""
    groups = getattr(metrics.task_of(records), "groups", None)
    return np.arange(examples) if groups is None else np.asarray(groups(records), dtype=np.int64)


def _independent(reference: Reference, mask: NDArray[np.bool_]) -> bool:
    """Whether no two examples share a unit: objects of one image and frames of one group do, and are resampled."""
    unit = reference.units.member[image_of(reference.records, len(mask))[mask]]
    unit = unit[unit >= 0]
    return len(np.unique(unit)) == len(unit)


Shares = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Which examples count, and which of them succeeded."""


def _counts(before: Shares, after: Shares, image: NDArray[np.int64], units: Units) -> tuple[int, int, int]:
    """Examples that were lost, that were gained, and all of them; copies left out."""
    mask = before[0] & after[0] & (units.member[image] >= 0)
    lost = int((mask & before[1] & ~after[1]).sum())
    gained = int((mask & ~before[1] & after[1]).sum())
    return lost, gained, int(mask.sum())


def _proportion(counts: tuple[int, int, int], confidence: float, *, exact: bool) -> Drop | None:
    lost, gained, n = counts
    if n == 0:
        return None
    estimate = (lost - gained) / n
    if confidence == 0:
        return Drop(Interval(estimate, estimate, estimate), POINT, n, (lost, gained))
    if exact:
        return Drop(paired_interval(lost, gained, n, confidence), EXACT, n, (lost, gained))
    upper, negative = score_bounds(lost, gained, n, confidence)
    return Drop(Interval(estimate, -negative, upper), SCORE, n, (lost, gained))


def _resampled(reference: Reference, candidate: Arrays, names: Sequence[str], decisive: bool) -> dict[str, Drop]:
    task = metrics.task_of(reference.records)
    before_all, after_all = reference.once(names), task.resample(candidate, reference.units.once, names)
    sign = {name: -1.0 if metrics.lower_is_better(reference.records, name) else 1.0 for name in names}
    estimates = {name: sign[name] * float(before_all[name][0] - after_all[name][0]) for name in names}
    known = [name for name in names if math.isfinite(estimates[name])]
    if reference.confidence == 0:
        return {
            name: Drop(Interval(estimates[name], estimates[name], estimates[name]), POINT, reference.support(name))
            for name in known
        }
    before = reference.values(known, decisive)
    after = reference.resample(candidate, known, decisive)
    found = {}
    for name in known:
        drops = sign[name] * (before[name] - after[name])
        if decisive:
            found[name] = _decided(reference, candidate, name, estimates[name], drops)
        else:
            support, estimate = reference.support(name), estimates[name]
            margin = jackknife_margin(drops[np.isfinite(drops)], support, reference.confidence)
            found[name] = Drop(Interval(estimate, estimate - margin, estimate + margin), JACKKNIFE, support)
    return found


def _decided(reference: Reference, candidate: Arrays, name: str, estimate: float, drops: Floats) -> Drop:
    """A drop with the bound of the bootstrap, or of the failures that the images cannot rule out where that is more."""
    confidence = reference.confidence
    replicates, influence = drops[: reference.resamples], drops[reference.resamples :]
    influence = influence[np.isfinite(influence)]
    # A resample that holds no example of a rare class says nothing; half of them missing says too little.
    holds = np.isfinite(replicates)
    if holds.mean() > 0.5:
        replicates = replicates[holds]
    found = supports(reference.records, candidate, name, reference.units)
    support, units = widest(found, confidence), found[0].units
    upper = bootstrap_upper(estimate, replicates, influence, units, confidence)
    lower = -bootstrap_upper(-estimate, -replicates, -influence, units, confidence)
    spread = upper - estimate
    interval = Interval(estimate, lower, max(upper, estimate + support.margin(confidence)))
    method = BOOTSTRAP.format(reference.units.word)
    return Drop(interval, method, reference.support(name), support=support, spread=spread)
