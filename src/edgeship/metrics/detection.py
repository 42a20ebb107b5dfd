"""Detection by the COCO protocol, from records that can be weighted and resampled image by image.

Equal to pycocotools on the same boxes (the tests compare), but in numpy alone, for two reasons: a vehicle computer
with the light install needs no compiler for it, and a bootstrap over images needs AP under a thousand weightings,
which no evaluation library offers.

Records: see :mod:`edgeship.metrics.objects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection
from edgeship.metrics import Summary, average_precision
from edgeship.metrics.average_precision import METRICS
from edgeship.metrics.matching import AREAS, areas, iou_matrix
from edgeship.metrics.objects import Compared, ObjectsCollector, Protocol

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, RecordsLike

CLASS_METRIC, CLASS_METRICS = "ap", average_precision.CLASS_METRICS


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> ObjectsCollector:
    """An empty collector."""
    return ObjectsCollector("detection", classes, settings, Protocol(compare, quick=True))


def compare(prediction: Detection, target: Boxes) -> Compared:
    """Boxes by their IoU."""
    boxes = prediction.boxes.astype(np.float32).astype(np.float64)

    def overlap(mine: Array, theirs: Array) -> Array:
        return iou_matrix(boxes[mine], target.boxes[theirs], target.crowd[theirs])

    return Compared(overlap, areas(boxes), target.crowd)


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """All of :data:`METRICS` and, per class, of :data:`CLASS_METRICS`; of rotated boxes DOTA's own too.

    ``map``, ``ap`` and ``ar`` follow COCO (101 recall levels, IoU 0.50:0.95, 1, 10 or 100 detections). ``recall`` and
    ``precision`` are those of the vehicle: IoU 0.5, scores at least ``operating_confidence``, over the objects and the
    detections of all classes together; ``recall_small`` counts objects of that size. What has no examples is absent.
    """
    weight = np.ones(int(records["count"])) if weights is None else np.asarray(weights, dtype=np.float64)
    classes = [str(name) for name in records["classes"]]
    per_class: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    renamed = {part: name for name, part in average_precision.AVERAGED.items()}
    for name, values in average_precision.curves(records, weight).items():
        _add(per_class, name, values, classes)
        if name in per_class:
            metrics[renamed.get(name, name)] = float(np.mean(list(per_class[name].values())))
    for name, (right, total) in _operating(records, weight).items():
        _add(per_class, name, _ratio(right, total), classes)
        if total.sum() > 0:
            metrics[name] = float(right.sum() / total.sum())
    counted = ~records["gt_ignored"][:, 0]
    number = np.bincount(records["gt_label"][counted], weight[records["gt_image"][counted]], minlength=len(classes))
    examples = {name: round(float(number[k])) for k, name in enumerate(classes)}
    ordered = {name: metrics[name] for name in average_precision.metrics_of(records) if name in metrics}
    kept = {name: per_class[name] for name in average_precision.class_metrics_of(records) if name in per_class}
    return Summary(ordered, kept, examples)


def _add(per_class: dict[str, dict[str, float]], name: str, values: Array, classes: Sequence[str]) -> None:
    known = {classes[k]: float(value) for k, value in enumerate(values) if np.isfinite(value)}
    if known:
        per_class[name] = known


def _operating(records: RecordsLike, weight: Array) -> dict[str, tuple[Array, Array]]:
    """Right ones and all, per class: objects (by size) for recall, detections for precision, at the vehicle's score."""
    classes = len(records["classes"])
    confidence = float(records["operating_confidence"])
    found: dict[str, tuple[Array, Array]] = {}
    by_object = weight[records["gt_image"]]
    hit = records["gt_score"] >= confidence
    for position, area in enumerate(AREAS):
        counted = by_object * ~records["gt_ignored"][:, position]
        total = np.bincount(records["gt_label"], counted, minlength=classes)
        right = np.bincount(records["gt_label"], counted * hit, minlength=classes)
        found["recall" if area == "all" else f"recall_{area}"] = right, total
    alive = (records["det_score"] >= confidence) & ((records["det_ignored"][:, 0] & 1) == 0)
    counted = weight[records["det_image"]] * alive
    right = counted * ((records["det_matched"][:, 0] & 1) == 1)
    label = records["det_label"]
    found["precision"] = (
        np.bincount(label, right, minlength=classes),
        np.bincount(label, counted, minlength=classes),
    )
    return found


def _ratio(part: Array, whole: Array) -> Array:
    share: Array = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return share


def resample(records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
    """See :meth:`edgeship.metrics.Task.resample`."""
    return average_precision.resample(records, weights, names)


def successes(records: RecordsLike, metric: str, class_name: str | None) -> tuple[Mask, Mask] | None:
    """``recall`` (and by size): the counted objects, and those found at the operating confidence.

    Objects of one image are not independent: a bound that assumes so is somewhat narrow (see :func:`groups`).
    """
    base, _, size = metric.partition("_")
    area = size or "all"
    if base != "recall" or area not in AREAS:
        return None
    mask = ~records["gt_ignored"][:, list(AREAS).index(area)]
    if class_name is not None:
        position = np.flatnonzero(records["classes"] == class_name)
        if len(position) == 0:
            return None
        mask = mask & (records["gt_label"] == position[0])
    return mask, records["gt_score"] >= float(records["operating_confidence"])


def groups(records: RecordsLike) -> Array:
    """The image of each example of :func:`successes`: int32 [G]."""
    found: Array = records["gt_image"]
    return found
