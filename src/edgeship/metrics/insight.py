"""How two engines answer, from their per-image records: confusions, calibration of confidence, shared mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeship.metrics.objects import of_objects

if TYPE_CHECKING:
    from edgeship.metrics import Array, RecordsLike

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """How often answers of a confidence are right.

    Args:
        bins: (mean confidence, share that is right, answers) of each of ten equal bins that holds any.
        error: The expected calibration error: the mean gap of the two, weighted by answers (Guo et al., "On
            Calibration of Modern Neural Networks", ICML 2017).
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float


@dataclass(frozen=True)
class Shared:
    """Answers by who is right. ``what``: images, or objects."""

    what: str
    both: int
    only_reference: int
    only_candidate: int
    neither: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.both + self.only_reference + self.only_candidate + self.neither


def confusion(records: RecordsLike) -> Array:
    """int64 [classes, classes] of a classification: true class (row) by answered class (column)."""
    count = len(records["classes"])
    pair = records["label"].astype(np.int64) * count + records["top"][:, 0]
    return np.bincount(pair, minlength=count * count).reshape(count, count)


def reliability(records: RecordsLike) -> Reliability | None:
    """Confidence against correctness: of the best class, or of detections at IoU 0.5; None where there is neither."""
    task = str(records["task"])
    if task == "classification":
        score, right = records["score"], records["top"][:, 0] == records["label"]
    elif of_objects(records):
        alive = records["det_ignored"][:, 0] & 1 == 0
        score, right = records["det_score"][alive], (records["det_matched"][alive, 0] & 1).astype(bool)
    else:
        return None
    score = np.asarray(score, dtype=np.float64)
    if not score.size or not np.isfinite(score).all():
        return None
    place = np.clip((score * BINS).astype(int), 0, BINS - 1)
    bins = []
    for index in range(BINS):
        mine = place == index
        if mine.any():
            bins.append((float(score[mine].mean()), float(right[mine].mean()), int(mine.sum())))
    error = sum(abs(confidence - share) * count for confidence, share, count in bins) / score.size
    return Reliability(tuple(bins), float(error))


def shared(base: RecordsLike, other: RecordsLike) -> Shared | None:
    """Who is right where: images of a classification, objects of a detection at IoU 0.5; None for other tasks.

    Of a detection, an object counts as found at the operating confidence. The two must be of the same images.
    """
    task = str(base["task"])
    if task == "classification":
        a, b = (records["top"][:, 0] == records["label"] for records in (base, other))
        what = "images"
    elif of_objects(base):
        counted = ~base["gt_ignored"][:, 0]
        a, b = (records["gt_score"][counted] >= float(records["operating_confidence"]) for records in (base, other))
        what = "objects"
    else:
        return None
    return Shared(what, int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))
