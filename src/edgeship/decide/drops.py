"""What a candidate lost against the reference, paired on the same images, with bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeship import metrics
from edgeship.decide.measured import Arrays
from edgeship.decide.statistics import (
    Interval,
    bootstrap_images_needed,
    bootstrap_upper,
    leave_out,
    paired_images_needed,
    paired_interval,
    resampling,
    score_upper,
)
from edgeship.errors import DataError

Floats = NDArray[np.float64]
EXACT = "exact paired (Tango score, unconditional)"
SCORE = "paired score (Tango)"
BOOTSTRAP = "paired bootstrap over images (BCa, t)"
POINT = "point estimate (statistics off)"


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
    cache: dict[str, Floats] = field(default_factory=dict)
    weights: Floats | None = None

    @property
    def images(self) -> int:
        """Number of evaluation images."""
        return len(self.records["ids"])

    def support(self, name: str) -> int:
        """Images that can tell about a metric: for one of a class, at most as many as it has examples."""
        _, _, class_name = name.partition("/")
        return min(self.images, self.examples.get(class_name, 0)) if class_name else self.images

    def weightings(self) -> Floats:
        """Bootstrap weights over jackknife weights, [resamples + groups, images]."""
        if self.weights is None:
            self.weights = np.concatenate([resampling(self.images, self.resamples), leave_out(self.images)])
        return self.weights

    def values(self, names: Sequence[str]) -> dict[str, Floats]:
        """The reference's metrics under every weighting."""
        missing = [name for name in names if name not in self.cache]
        if missing:
            task = metrics.task_of(self.records)
            self.cache.update(task.resample(self.records, self.weightings(), missing))
        return {name: self.cache[name] for name in names}


def check_paired(reference: Arrays, candidate: Arrays, name: str) -> None:
    """Refuse to pair records of different images.

    Raises:
        DataError: Other images, another order, another task or other classes.
    """
    for key, what in (("task", "tasks"), ("classes", "class names"), ("ids", "images"), ("digests", "images")):
        if key in reference and not np.array_equal(reference[key], candidate.get(key, np.empty(0))):
            raise DataError(
                f"{name} and the reference were evaluated with different {what}",
                expected="the same images in the same order",
                do="evaluate both again on one image folder",
            )


def measure(reference: Reference, candidate: Arrays, names: Sequence[str], exact: frozenset[str]) -> dict[str, Drop]:
    """The drops of metrics (``top1``) and of classes (``recall/person``).

    Args:
        reference: The reference's records.
        candidate: The candidate's, of the same images.
        names: What to measure.
        exact: Those among ``names`` that decide: they get the exact bound where one exists, the others, which are
            only shown, get the score bound.

    Returns:
        Name → drop. A name whose metric has no value on either side is absent.
    """
    task = metrics.task_of(reference.records)
    found: dict[str, Drop] = {}
    others = []
    for name in names:
        metric, _, class_name = name.partition("/")
        before = task.successes(reference.records, metric, class_name or None)
        after = task.successes(candidate, metric, class_name or None)
        # Examples pair exactly only where they are independent: one per image.
        if before is None or after is None or len(before[0]) != reference.images:
            others.append(name)
            continue
        drop = _proportion(before, after, reference.confidence, exact=name in exact)
        if drop is not None:
            found[name] = drop
    if others:
        found.update(_resampled(reference, candidate, others))
    return {name: found[name] for name in names if name in found}


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
    upper, negative = score_upper(
        np.array([lost, gained], dtype=np.float64),
        np.array([gained, lost], dtype=np.float64),
        np.array([n, n], dtype=np.float64),
        confidence,
    )
    return Drop(Interval(estimate, -float(negative), float(upper)), SCORE, n, (lost, gained))


def _resampled(reference: Reference, candidate: Arrays, names: Sequence[str]) -> dict[str, Drop]:
    task = metrics.task_of(reference.records)
    once = np.ones((1, reference.images))
    before_all, after_all = task.resample(reference.records, once, names), task.resample(candidate, once, names)
    known = [name for name in names if np.isfinite(before_all[name][0] - after_all[name][0])]
    estimates = {name: float(before_all[name][0] - after_all[name][0]) for name in known}
    if reference.confidence == 0:
        return {name: Drop(Interval(x, x, x), POINT, reference.support(name)) for name, x in estimates.items()}
    before, after = reference.values(known), task.resample(candidate, reference.weightings(), known)
    found = {}
    for name in known:
        drops, support = before[name] - after[name], reference.support(name)
        replicates, influence = drops[: reference.resamples], drops[reference.resamples :]
        # A resample that holds no example of a rare class says nothing; half of them missing says too little.
        holds = np.isfinite(replicates)
        enough = holds.mean() > 0.5
        kept = replicates[holds] if enough else replicates
        influence = influence[np.isfinite(influence)] if enough else influence
        bounds = (
            bootstrap_upper(sign * estimates[name], sign * kept, sign * influence, support, reference.confidence)
            for sign in (1, -1)
        )
        upper, negative = bounds
        found[name] = Drop(Interval(estimates[name], -negative, upper), BOOTSTRAP, support)
    return found
