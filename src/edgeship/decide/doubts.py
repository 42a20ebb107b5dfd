"""Whether the reference can be believed: better than chance, and finding every critical class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeship import metrics
from edgeship.decide.agreement import Answers
from edgeship.decide.case import Wanted
from edgeship.decide.distributions import binomial_cdf, clopper_pearson
from edgeship.decide.drops import Reference
from edgeship.decide.loaded_trial import Arrays
from edgeship.metrics.objects import of_objects

NEAR_ZERO = 0.05
"""An AP or mIoU that no working model has."""
EXAMPLES = 10
"""Images that differ from which anything is told of a reference; examples of a class from which it is told that the
reference never finds it."""
NAMED = 5
UNRELATED = 1 / 3
"""How far agreement must be from that of unrelated models (0) to that of equal ones (1)."""


def doubts(reference: Reference, wanted: Sequence[Wanted], floors: bool, never: Sequence[str] = ()) -> tuple[str, ...]:
    """Why a comparison with this reference proves nothing; empty where it does.

    Args:
        reference: Its records.
        wanted: The accuracy rules: those of classes name the critical ones.
        floors: Whether the config says itself what a metric must reach; then chance is not asked.
        never: Classes with :data:`EXAMPLES` examples or more, none of which the reference finds.
    """
    found = [
        f"the reference never finds {item.subject!r} ({item.what} is 0): nothing can be lost"
        for item in wanted
        if "/" in item.what
        and not metrics.lower_is_better(reference.records, item.what)
        and _value(reference, item.what) == 0
    ]
    critical = {item.subject for item in wanted if "/" in item.what}
    unfound = [name for name in never if name not in critical]
    if not floors and unfound:
        more = f" and {len(unfound) - NAMED} more" if len(unfound) > NAMED else ""
        found.append(
            f"the reference never finds {', '.join(map(repr, unfound[:NAMED]))}{more}, each in {EXAMPLES} or more "
            "examples, as with classes in another order; where that is known, say with gate.min what is enough"
        )
    if not floors and reference.units.count < EXAMPLES:
        found.append(
            f"the reference's own figure rests on {reference.units.count} {reference.units.word}: fewer than "
            f"{EXAMPLES} that differ show nothing about a model"
        )
    if not floors and (chance := _no_better_than_chance(reference)):
        found.insert(0, chance)
    return tuple(found)


def unlike(reference: Reference, candidate: Arrays, answers: Answers) -> str:
    """That a classifier agrees with its reference hardly more than an unrelated one would; empty where it does more."""
    records = reference.records
    if str(records["task"]) != "classification" or reference.units.count == 0:
        return ""
    counted = reference.units.member >= 0
    label = records["label"]
    a, b = (float((item["top"][:, 0] == label)[counted].mean()) for item in (records, candidate))
    unrelated = a * b + (1 - a) * (1 - b) / max(len(records["classes"]) - 1, 1)
    least = unrelated + UNRELATED * (1 - abs(a - b) - unrelated)
    n = reference.units.count
    most = clopper_pearson(min(n, round(answers.share * n)), n, reference.confidence)[1]
    if most >= least:
        return ""
    return (
        f"agrees with the reference on only {answers.share:.1%} of the answers; two unrelated models of this accuracy "
        f"would on {unrelated:.1%}, so equal metrics say little about this one"
    )


def _value(reference: Reference, name: str) -> float:
    return float(reference.once([name])[name][0])


def _no_better_than_chance(reference: Reference) -> str:
    records, task = reference.records, str(reference.records["task"])
    counted = reference.units.member >= 0
    if task == "classification" and counted.any():
        return _top1_chance(reference, counted)
    if of_objects(records):
        value = max(_value(reference, name) for name in ("map50", "map"))
        if np.isfinite(value) and value < NEAR_ZERO:
            return f"the reference's map50 is {value:.4f}: near zero, as with wrong labels, boxes or preprocessing"
    if task == "segmentation" and counted.any():
        pixels = records["labelled"][counted].sum(axis=0).astype(np.float64)
        constant = float(pixels.max() / pixels.sum() / max((pixels > 0).sum(), 1)) if pixels.sum() else 0.0
        value, least = _value(reference, "miou"), max(NEAR_ZERO, constant)
        if np.isfinite(value) and value <= least:
            return f"the reference's miou is {value:.4f}; one class everywhere would give {constant:.4f}"
    return ""


def _top1_chance(reference: Reference, counted: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> str:
    """One-sided exact binomial test of top-1 against the share of the largest class."""
    records, units = reference.records, reference.units.count
    label = records["label"][counted]
    right = float((records["top"][counted, 0] == label).mean())
    largest = float(np.bincount(label).max() / len(label))
    if largest == 1:
        return "every evaluation image is of one class, so that one constant answer is always right"
    chance = 1 - float(binomial_cdf(round(right * units) - 1, units, largest))
    if chance <= 1 - reference.confidence:
        return ""
    return (
        f"the reference's top1 is {right:.4f} on {units} {reference.units.word}, not shown to be better than chance: "
        f"always answering the largest class gives {largest:.4f}"
    )
