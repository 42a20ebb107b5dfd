"""How often a candidate answers as the reference does, and how far its confidence moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeship.decide.distributions import clopper_pearson
from edgeship.decide.drops import IDENTICAL, Reference
from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.statistics import bootstrap_upper
from edgeship.decide.support import FAILED
from edgeship.metrics import paired


@dataclass(frozen=True)
class Answers:
    """``share`` of the answers are the same; ``sure`` is its lower bound; ``score_shift`` the mean change of scores."""

    share: float
    sure: float
    method: str
    images: int
    score_shift: float | None


def compare_answers(reference: Reference, candidate: Arrays) -> Answers | None:
    """Compare two records of the same images; None where there are no images.

    The share is :func:`edgeship.metrics.paired.agreement`. Where every image gives one answer (classification, a task
    of one's own) its lower bound is exact; else the images are resampled, each with its own answers.
    """
    confidence, images = reference.confidence, reference.units.images
    if images == 0:
        return None
    units = reference.units
    same, total = (part * units.once[0] for part in paired.answers(reference.records, candidate))
    share = float(same.sum() / total.sum()) if total.sum() > 0 else 1.0
    shift = paired.score_shift(reference.records, candidate)
    if confidence == 0:
        return Answers(share, share, "", images, shift)
    if units.single and np.all(total[units.member >= 0] == 1) and np.all((same == 0) | (same == 1)):
        sure = clopper_pearson(int(same.sum()), units.images, confidence)[0]
        return Answers(share, sure, "exact (Clopper-Pearson)", units.images, shift)
    weights = reference.of_units(decisive=True)
    answers, alike = units.sums(total), units.sums(same)
    given, kept = weights @ answers, weights @ alike
    lost = 1 - np.divide(kept, given, out=np.ones(len(weights)), where=given > 0)
    replicates, influence = lost[: reference.resamples], lost[reference.resamples :]
    upper = bootstrap_upper(1 - share, replicates, influence, units.count, confidence)
    failed = ((answers > 0) & (alike <= (1 - FAILED) * answers)).any()
    unseen = 1 - share + (0.0 if failed else clopper_pearson(0, units.count, confidence)[1])
    method = f"bootstrap over {units.word} (BCa, t)"
    return Answers(share, max(0.0, 1 - max(upper, unseen)), method, units.images, shift)


def same_answers(reference: Reference) -> Answers | None:
    """The answers of a candidate that is the reference itself; None where there are no images."""
    if reference.images == 0:
        return None
    return Answers(1.0, 1.0, IDENTICAL, reference.images, paired.score_shift(reference.records, reference.records))
