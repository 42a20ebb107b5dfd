"""How often a candidate answers as the reference does, and how far its confidence moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeship.decide.measured import Arrays
from edgeship.decide.special import clopper_pearson
from edgeship.decide.statistics import bootstrap_upper, leave_out, resampling
from edgeship.metrics import paired


@dataclass(frozen=True)
class Answers:
    """``share`` of the answers are the same; ``sure`` is its lower bound; ``score_shift`` the mean change of scores."""

    share: float
    sure: float
    method: str
    images: int
    score_shift: float | None


def compare_answers(reference: Arrays, candidate: Arrays, confidence: float, resamples: int) -> Answers | None:
    """Compare two records of the same images; None where there are no images.

    Classification: images with the same best class, with the exact lower bound. Other tasks: the mean over images of
    the share of answers that agree, with a bootstrap over images.
    """
    images = len(reference["ids"])
    if images == 0:
        return None
    shift = paired.score_shift(reference, candidate)
    if str(reference["task"]) == "classification":
        same = int((reference["top"][:, 0] == candidate["top"][:, 0]).sum())
        sure = clopper_pearson(same, images, confidence)[0] if confidence > 0 else same / images
        return Answers(same / images, sure, "exact (Clopper-Pearson)", images, shift)
    changed = paired.change(reference, candidate)
    lost = float(changed.mean())
    if confidence == 0:
        return Answers(1 - lost, 1 - lost, "", images, shift)
    replicates = resampling(images, resamples) @ changed / images
    influence = leave_out(images) @ changed / images
    upper = bootstrap_upper(lost, replicates, np.asarray(influence), images, confidence)
    return Answers(1 - lost, 1 - upper, "bootstrap over images (BCa, t)", images, shift)
