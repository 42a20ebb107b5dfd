"""Keypoints by the COCO protocol: AP and AR as for boxes, with object keypoint similarity (OKS) in the place of IoU.

Equal to pycocotools' ``keypoints``: a labelled point's distance against the object's own area and the point's sigma,
the mean over labelled points; objects without a labelled point and crowds count nowhere; 20 detections of a class in
an image; the area of a detection is that of the box around its points. Records: see :mod:`edgeship.metrics.objects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Poses
from edgeship.errors import DataError
from edgeship.metrics import Summary, average_precision, detection
from edgeship.metrics.objects import Compared, ObjectsCollector, Protocol

if TYPE_CHECKING:
    from edgeship.metrics import Array, RecordsLike

CLASS_METRIC = detection.CLASS_METRIC
CLASS_METRICS = tuple(name for name in average_precision.CLASS_METRICS if not name.endswith("small"))
METRICS = tuple(
    name for name in average_precision.METRICS if not name.endswith("small") and name not in ("ar1", "ar10")
)
"""COCO labels no keypoints of small objects."""
MAX_DETECTIONS = 20
SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
"""Of COCO's 17 points of a person: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles."""

resample, successes, groups = detection.resample, detection.successes, detection.groups


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> ObjectsCollector:
    """An empty collector."""
    judge = partial(compare, sigmas=settings.keypoint_sigmas)
    return ObjectsCollector("keypoints", classes, settings, Protocol(judge, MAX_DETECTIONS))


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """All of :data:`METRICS` and, per class, of :data:`CLASS_METRICS`."""
    found = detection.summarize(records, weights)
    kept = {name: found.metrics[name] for name in METRICS if name in found.metrics}
    per_class = {name: found.per_class[name] for name in CLASS_METRICS if name in found.per_class}
    return Summary(kept, per_class, found.examples)


def sigmas_of(count: int, given: Sequence[float] | None) -> Array:
    """The sigma of each of ``count`` keypoints: those given, COCO's own for 17, else 1 / count as Ultralytics has it.

    Raises:
        DataError: Another number of them was given.
    """
    if given is not None and len(given) != count:
        raise DataError(
            f"evaluation.keypoint_sigmas has {len(given)} numbers, objects have {count} keypoints",
            expected="a sigma for each keypoint",
        )
    return np.array(given or (SIGMAS if count == len(SIGMAS) else (1 / count,) * count), dtype=np.float64)


def compare(prediction: Poses, target: Boxes, sigmas: Sequence[float] | None = None) -> Compared:
    """Keypoints by their OKS.

    Raises:
        DataError: Objects without keypoints, or another number of them than the model gives.
    """
    points = prediction.points[..., :2].astype(np.float64)
    nothing = not len(target.labels)
    if target.keypoints is None and not nothing:
        raise DataError("its objects have boxes alone", expected="keypoints of every object")
    truth = target.keypoints if target.keypoints is not None and not nothing else np.zeros((0, points.shape[1], 3))
    if truth.shape[1] != points.shape[1] and not nothing and len(points):
        raise DataError(
            f"its objects have {truth.shape[1]} keypoints, the model gives {points.shape[1]}",
            expected="the same points in the same order",
        )
    spread = sigmas_of(truth.shape[1], sigmas) if truth.shape[1] else np.zeros(0)
    span = np.ptp(points, axis=1) if points.shape[1] else np.zeros((len(points), 2))

    def overlap(mine: Array, theirs: Array) -> Array:
        shape = (len(mine), len(theirs))
        if not all(shape):
            return np.zeros(shape)
        one = Boxes(target.boxes[theirs], target.labels[theirs], target.crowd[theirs], target.area[theirs])
        return similarity(points[mine], truth[theirs], one, spread)

    unlabelled = ~(truth[..., 2] > 0).any(axis=1)
    return Compared(overlap, span[:, 0] * span[:, 1], target.crowd | unlabelled)


def similarity(points: Array, truth: Array, objects: Boxes, sigmas: Array) -> Array:
    """OKS float64 [D, G] of found points [D, K, 2] and labelled ones [G, K, 3].

    Where an object has no labelled point, distances are those to a box three times as wide and high as its own.
    """
    labelled = truth[..., 2] > 0
    bare: Array = labelled.sum(axis=1) == 0
    away = np.abs(points[:, None] - truth[None, :, :, :2])
    low, high = objects.boxes[:, None, :2], objects.boxes[:, None, 2:]
    side = high - low
    outside = np.maximum(low - side - points[:, None], 0) + np.maximum(points[:, None] - (low + 2 * side), 0)
    away = np.where(bare[None, :, None, None], outside, away)
    scale = (2 * sigmas) ** 2 * (objects.area[:, None] + np.spacing(1)) * 2
    near = np.exp(-(away**2).sum(axis=3) / scale[None])
    counted = labelled | bare[:, None]
    found: Array = (near * counted[None]).sum(axis=2) / counted.sum(axis=1)[None]
    return found
