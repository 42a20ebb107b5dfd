"""Two models on the same images: how often they agree, how far scores moved, which images changed most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import DataError
from edgeship.metrics.matching import iou_matrix
from edgeship.metrics.objects import of_objects

if TYPE_CHECKING:
    from edgeship.metrics import Array, RecordsLike

SAME_BOX = 0.5
"""IoU from which two boxes of one class are the same answer."""


def require_same_images(reference: RecordsLike, candidate: RecordsLike) -> None:
    """Check that two records may be paired.

    Raises:
        DataError: Another task, other classes, or other images or labels.
    """
    for name, what in (("task", "tasks"), ("classes", "class names"), ("ids", "images"), ("digests", "image contents")):
        if name in reference and not np.array_equal(reference[name], candidate.get(name, ())):
            raise DataError(
                f"the two evaluations are of different {what} and cannot be paired",
                do="evaluate both on the same images, in the same order",
            )
    for name in ("label", "gt_label", "labelled"):
        if name in reference and not np.array_equal(reference[name], candidate.get(name, ())):
            raise DataError(
                "the two evaluations were made with different labels and cannot be paired",
                do="evaluate both again with the same images and labels",
            )


def comparable(reference: RecordsLike, candidate: RecordsLike) -> tuple[RecordsLike, frozenset[str]]:
    """A candidate's records over the images that its reference has numbers for, and the metrics it spoiled.

    For a task of one's own (``value/NAME``): an image without a number in the reference counts in neither mean; a
    number that only the candidate failed to give is not an image to leave out, but a failure of that metric.
    """
    masked, spoiled = {}, set()
    for name in reference:
        if name.startswith("value/") and name in candidate:
            known = np.isfinite(reference[name])
            if (known & ~np.isfinite(candidate[name])).any():
                spoiled.add(name.removeprefix("value/"))
            masked[name] = np.where(known, candidate[name], np.nan)
    return {**candidate, **masked} if masked else candidate, frozenset(spoiled)


def agreement(reference: RecordsLike, candidate: RecordsLike) -> float:
    """Share of answers that are the same, 0 to 1.

    Classification: images with the same best class. Detection and instance masks: boxes at the operating confidence
    that both found (same class, IoU of the boxes at least 0.5), twice over the boxes of both; 1 where neither found
    any. Segmentation: grid points
    with the same class. Text: equal lines. Embeddings: images with the same nearest one. A task of one's own: images
    with equal numbers.
    """
    same, total = answers(reference, candidate)
    return float(same.sum() / total.sum()) if total.sum() > 0 else 1.0


def change(reference: RecordsLike, candidate: RecordsLike) -> Array:
    """How much each image's answer changed, float64 [N] from 0 (same) to 1: one minus its own agreement.

    For classification an image with the same class counts the move of its score, at most 0.5. For depth: the move of
    the relative error.
    """
    if str(reference["task"]) == "depth":
        apart: Array = np.nan_to_num(np.abs(candidate["value/abs_rel"] - reference["value/abs_rel"])).clip(0.0, 1.0)
        return apart
    same, total = answers(reference, candidate)
    changed: Array = 1.0 - np.divide(same, total, out=np.ones(len(same)), where=total > 0)
    if str(reference["task"]) == "classification":
        moved = 0.5 * np.abs(candidate["score"].astype(np.float64) - reference["score"])
        changed = np.where(changed > 0, 0.5 + moved, moved)
    return changed


def score_shift(reference: RecordsLike, candidate: RecordsLike) -> float | None:
    """Mean change of scores, candidate minus reference; None where the task has no scores or nothing is shared.

    Classification: over images with the same best class. Detection: over the reference's boxes at the operating
    confidence that the candidate found at any score.
    """
    task = str(reference["task"])
    moved: Array = np.zeros(0)
    if task == "classification":
        both = reference["top"][:, 0] == candidate["top"][:, 0]
        moved = candidate["score"][both].astype(np.float64) - reference["score"][both]
    elif of_objects(reference):
        confidence = float(reference["operating_confidence"])
        parts = [
            candidate["det_score"][theirs].astype(np.float64) - reference["det_score"][mine]
            for _, mine, theirs in _shared_boxes(reference, candidate, confidence, 0.0)
        ]
        moved = np.concatenate([moved, *parts])
    return float(moved.mean()) if len(moved) else None


def answers(reference: RecordsLike, candidate: RecordsLike) -> tuple[Array, Array]:
    """Per image: answers that agree, and all answers of both, float64 [N] each. See :func:`agreement`."""
    task = str(reference["task"])
    if task == "classification":
        same = reference["top"][:, 0] == candidate["top"][:, 0]
        return same.astype(np.float64), np.ones(len(same))
    if task == "segmentation":
        same = (reference["grid"] == candidate["grid"]).mean(axis=(1, 2))
        return same, np.ones(len(same))
    if of_objects(reference):
        confidence = float(reference["operating_confidence"])
        count = int(reference["count"])
        total = np.zeros(count)
        for records in (reference, candidate):
            total += np.bincount(records["det_image"][records["det_score"] >= confidence], minlength=count)
        shared = np.zeros(count)
        for image, mine, _ in _shared_boxes(reference, candidate, confidence, confidence):
            shared[image] = 2 * len(mine)
        return shared, total
    for name in ("text", "nearest"):
        if name in reference:
            return (reference[name] == candidate[name]).astype(np.float64), np.ones(len(reference[name]))
    values = [name for name in reference if name.startswith("value/")]
    same = np.all([np.isclose(reference[name], candidate[name], equal_nan=True) for name in values], axis=0)
    return same.astype(np.float64), np.ones(len(same))


def _shared_boxes(
    reference: RecordsLike, candidate: RecordsLike, low: float, other_low: float
) -> Iterator[tuple[int, Array, Array]]:
    """Per image: positions of the reference's and of the candidate's detections that are the same box."""
    mine, theirs = (
        np.flatnonzero(records["det_score"] >= limit) for records, limit in ((reference, low), (candidate, other_low))
    )
    images = np.arange(int(reference["count"]) + 1)
    starts = np.searchsorted(reference["det_image"][mine], images)
    other_starts = np.searchsorted(candidate["det_image"][theirs], images)
    for image in np.flatnonzero((np.diff(starts) > 0) & (np.diff(other_starts) > 0)):
        left = mine[starts[image] : starts[image + 1]]
        right = theirs[other_starts[image] : other_starts[image + 1]]
        pairs = _pair(reference, candidate, left, right)
        yield int(image), left[pairs[0]], right[pairs[1]]


def _pair(reference: RecordsLike, candidate: RecordsLike, left: Array, right: Array) -> tuple[Array, Array]:
    """One-to-one pairs of the same class, best IoU first."""
    boxes, others = reference["det_box"][left].astype(np.float64), candidate["det_box"][right].astype(np.float64)
    overlap = iou_matrix(boxes, others, np.zeros(len(others), dtype=np.bool_))
    overlap *= reference["det_label"][left][:, None] == candidate["det_label"][right][None, :]
    rows, columns = np.nonzero(overlap >= SAME_BOX)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    used: set[int] = set()
    taken: set[int] = set()
    kept = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used and column not in taken:
            used.add(row)
            taken.add(column)
            kept.append((row, column))
    table = np.array(kept, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
