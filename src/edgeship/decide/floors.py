"""What a metric reaches by itself, with a lower bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeship import metrics
from edgeship.decide.distributions import clopper_pearson
from edgeship.decide.drops import BOOTSTRAP, POINT, Reference, image_of
from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.statistics import bootstrap_upper
from edgeship.decide.support import own_supports, widest
from edgeship.metrics import losses

EXACT = "exact (Clopper-Pearson)"


@dataclass(frozen=True)
class Level:
    """A metric and its one-sided bounds; ``examples`` counts what it was measured on."""

    value: float
    lower: float
    upper: float
    method: str
    examples: int


def level(reference: Reference, records: Arrays, name: str) -> Level | None:
    """A metric of records of the reference's images (``top1``, ``recall/person``); None where it has no value.

    Exact for a share with one example a unit, else by the bootstrap over units, and never surer than the failures allow
    that no unit shows.
    """
    metric, _, class_name = name.partition("/")
    share = metrics.task_of(records).successes(records, metric, class_name or None)
    confidence, units = reference.confidence, reference.units
    if share is not None:
        unit = units.member[image_of(records, len(share[0]))]
        mask = share[0] & (unit >= 0)
        n, right = int(mask.sum()), int((mask & share[1]).sum())
        if n == 0:
            return None
        if confidence == 0:
            return Level(right / n, right / n, right / n, POINT, n)
        if len(np.unique(unit[mask])) == n:
            lower, upper = clopper_pearson(right, n, confidence)
            return Level(right / n, lower, upper, EXACT, n)
    value = float(metrics.task_of(records).resample(records, units.once, [name])[name][0])
    if not math.isfinite(value):
        return None
    held = units.sums(losses.held(reference.records, name))
    count, images = int((held > 0).sum()), reference.support(name)
    if confidence == 0:
        return Level(value, value, value, POINT, images)
    drawn = reference.resample(records, [name], True)[name]
    replicates, influence = drawn[: reference.resamples], drawn[reference.resamples :]
    replicates, influence = replicates[np.isfinite(replicates)], influence[np.isfinite(influence)]
    lower = -bootstrap_upper(-value, -replicates, -influence, count, confidence)
    upper = bootstrap_upper(value, replicates, influence, count, confidence)
    unseen = widest(own_supports(records, name, units), confidence).margin(confidence)
    lower, upper = min(lower, value - unseen), max(upper, value + unseen)
    return Level(value, lower, upper, BOOTSTRAP.format(units.word), images)
