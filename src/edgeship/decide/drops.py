"""What a candidate lost against the reference, paired on the same images, with bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeship import metrics
from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.statistics import (
    Interval,
    bootstrap_images_needed,
    bootstrap_upper,
    jackknife_margin,
    leave_out,
    paired_images_needed,
    paired_interval,
    resampling,
    score_upper,
)
from edgeship.errors import DataError
from edgeship.metrics import paired

Floats = NDArray[np.float64]
EXACT = "exact paired (Tango score, unconditional)"
SCORE = "paired score (Tango)"
JACKKNIFE = "jackknife over groups of images"
BOOTSTRAP = "paired bootstrap over images (BCa, t)"
POINT = "point estimate (statistics off)"
IDENTICAL = "identical to the reference"


@dataclass(frozen=True)
class Drop:
    """A metric's drop. ``examples`` counts what it was measured on; ``discordant`` is (lost, gained) where exact."""

    interval: Interval
    method: str
    examples: int
    discordant: tuple[int, int] | None = None

    def more_images(self, limit: float, confidence: float, images: int) -> int | None:
        """About how many more labelled images would bring the bound within ``limit``."""
        if confidence == 0 or self.examples == 0:
            return None
        if self.discordant is not None:
            needed = paired_images_needed(*self.discordant, self.examples, limit, confidence)
        else:
            estimate, bound = self.interval.estimate, self.interval.upper
            needed = bootstrap_images_needed(estimate, bound, self.examples, limit, confidence)
        return None if needed is None else math.ceil(needed * images / self.examples)


@dataclass
class Reference:
    """The reference's records and what is computed from them once for all candidates."""

    records: Arrays
    confidence: float
    resamples: int
    examples: Mapping[str, int] = field(default_factory=dict)
    """Class name → labelled examples."""
    cache: dict[tuple[str, bool], Floats] = field(default_factory=dict)
    weights: dict[bool, Floats] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of evaluation images."""
        return len(self.records["ids"])

    def support(self, name: str) -> int:
        """Images that can tell about a metric: those with a labelled object of its class and size.

        Where the task does not know which, at most as many as the class has examples.
        """
        images_with = getattr(metrics.task_of(self.records), "images_with", None)
        if images_with is not None:
            return int(images_with(self.records, name))
        _, _, class_name = name.partition("/")
        return min(self.images, self.examples.get(class_name, 0)) if class_name else self.images

    def weightings(self, decisive: bool) -> Floats:
        """Weights of the jackknife, after those of the bootstrap where a rule rests on it: [weightings, images]."""
        if decisive not in self.weights:
            weights = leave_out(self.images)
            if decisive:
                jackknife, weights = weights, resampling(self.images, self.resamples, behind=len(weights))
                weights[self.resamples :] = jackknife
            self.weights[decisive] = weights
        return self.weights[decisive]

    def values(self, names: Sequence[str], decisive: bool) -> dict[str, Floats]:
        """The reference's metrics under every weighting."""
        missing = [name for name in names if (name, decisive) not in self.cache]
        if missing:
            task = metrics.task_of(self.records)
            made = task.resample(self.records, self.weightings(decisive), missing)
            self.cache.update({(name, decisive): values for name, values in made.items()})
        return {name: self.cache[name, decisive] for name in names}


def check_paired(reference: Arrays, candidate: Arrays, name: str) -> None:
    """Refuse to pair records of different images.

    Raises:
        DataError: Other images, another order, other labels, another task or other classes.
    """
    try:
        paired.require_same_images(reference, candidate)
    except DataError as error:
        raise DataError(f"{name} and the reference: {error.found}", expected=error.expected, do=error.do) from None


def unchanged(reference: Reference, names: Sequence[str]) -> dict[str, Drop]:
    """The drops of a candidate that is the reference itself: zero, with nothing left to chance."""
    once = metrics.task_of(reference.records).resample(reference.records, np.ones((1, reference.images)), names)
    known = [name for name in names if math.isfinite(float(once[name][0]))]
    return {name: Drop(Interval(0.0, 0.0, 0.0), IDENTICAL, reference.support(name)) for name in known}


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
        if before is None or after is None or not _one_per_image(reference, before[0]):
            others.append(name)
            continue
        drop = _proportion(before, after, reference.confidence, exact=name in exact)
        if drop is not None:
            found[name] = drop
    for decisive in (True, False):
        chosen = [name for name in others if (name in exact) == decisive]
        if chosen:
            found.update(_resampled(reference, candidate, chosen, decisive))
    return {name: found[name] for name in names if name in found}


def _one_per_image(reference: Reference, mask: NDArray[np.bool_]) -> bool:
    """Whether the examples are independent: objects of one image are not, and are resampled with their image."""
    groups = getattr(metrics.task_of(reference.records), "groups", None)
    if groups is None:
        return len(mask) == reference.images
    images = np.asarray(groups(reference.records))[mask]
    return len(np.unique(images)) == len(images)


def _proportion(
    before: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    after: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    confidence: float,
    *,
    exact: bool,
) -> Drop | None:
    mask = before[0] & after[0]
    n = int(mask.sum())
    if n == 0:
        return None
    lost = int((mask & before[1] & ~after[1]).sum())
    gained = int((mask & ~before[1] & after[1]).sum())
    estimate = (lost - gained) / n
    if confidence == 0:
        return Drop(Interval(estimate, estimate, estimate), POINT, n, (lost, gained))
    if exact:
        return Drop(paired_interval(lost, gained, n, confidence), EXACT, n, (lost, gained))
    upper, negative = score_upper([lost, gained], [gained, lost], n, confidence)
    return Drop(Interval(estimate, -float(negative), float(upper)), SCORE, n, (lost, gained))


def _resampled(reference: Reference, candidate: Arrays, names: Sequence[str], decisive: bool) -> dict[str, Drop]:
    task = metrics.task_of(reference.records)
    once = np.ones((1, reference.images))
    before_all, after_all = task.resample(reference.records, once, names), task.resample(candidate, once, names)
    estimates = {name: float(before_all[name][0] - after_all[name][0]) for name in names}
    known = [name for name in names if math.isfinite(estimates[name])]
    if reference.confidence == 0:
        return {
            name: Drop(Interval(estimates[name], estimates[name], estimates[name]), POINT, reference.support(name))
            for name in known
        }
    before = reference.values(known, decisive)
    after = task.resample(candidate, reference.weightings(decisive), known)
    found = {}
    for name in known:
        interval = _interval(reference, name, estimates[name], before[name] - after[name], decisive)
        found[name] = Drop(interval, BOOTSTRAP if decisive else JACKKNIFE, reference.support(name))
    return found


def _interval(reference: Reference, name: str, estimate: float, drops: Floats, decisive: bool) -> Interval:
    """Bounds from the drops under every weighting: the bootstrap's, then the jackknife's."""
    images, confidence = reference.support(name), reference.confidence
    first = reference.resamples if decisive else 0
    replicates, influence = drops[:first], drops[first:]
    influence = influence[np.isfinite(influence)]
    if not decisive:
        margin = jackknife_margin(influence, images, confidence)
        return Interval(estimate, estimate - margin, estimate + margin)
    # A resample that holds no example of a rare class says nothing; half of them missing says too little.
    holds = np.isfinite(replicates)
    if holds.mean() > 0.5:
        replicates = replicates[holds]
    upper = bootstrap_upper(estimate, replicates, influence, images, confidence)
    return Interval(estimate, -bootstrap_upper(-estimate, -replicates, -influence, images, confidence), upper)
