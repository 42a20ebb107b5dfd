"""Detection by the COCO protocol, from records that can be weighted and resampled image by image.

Equal to pycocotools on the same boxes (the tests compare), but in numpy alone, for two reasons: a vehicle computer
with the light install needs no compiler for it, and a bootstrap over images needs AP under a thousand weightings,
which no evaluation library offers.

Records of N images, D detections (grouped by image, by falling score) and G objects:

``count``        int64, N
``det_image``    int32 [D]          ``det_label``  int32 [D]       ``det_score`` float32 [D]
``det_rank``     int32 [D], among those of its class in its image
``det_box``      float32 [D, 4]
``det_matched``, ``det_ignored``  uint16 [D, 4]: for each area range, bit t for IoU threshold t
``gt_image``     int32 [G]          ``gt_label``   int32 [G]       ``gt_box`` float32 [G, 4]
``gt_ignored``   bool [G, 4]        ``gt_score``   float32 [G]: of the detection that found it at IoU 0.5, else -1
``operating_confidence`` float64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection, Prediction
from edgeship.metrics import Summary, average_precision
from edgeship.metrics.average_precision import CLASS_METRICS, METRICS, SIZES
from edgeship.metrics.matching import AREAS, MAX_DETECTIONS, match, outside_bits

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

CLASS_METRIC = "ap"


class DetectionCollector:
    """Matches each image as it comes; keeps flags, scores and boxes."""

    def __init__(self, classes: Sequence[str], settings: Evaluation) -> None:
        self._classes = tuple(classes)
        self._confidence = settings.operating_confidence
        self._count = 0
        self._detections: list[dict[str, Array]] = []
        self._objects: list[dict[str, Array]] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its :class:`edgeship.data.objects.Boxes`."""
        assert isinstance(prediction, Detection)
        assert isinstance(target, Boxes)
        detections, objects = _match_image(prediction, target)
        for kind, part in ((self._detections, detections), (self._objects, objects)):
            part["image"] = np.full(len(part["label"]), self._count, dtype=np.int32)
            kind.append(part)
        self._count += 1

    def records(self) -> Records:
        """The arrays of this module's docstring."""
        empty_d, empty_o = _match_image(_nothing(self._classes), _no_objects())
        empty_d["image"] = empty_o["image"] = np.zeros(0, dtype=np.int32)
        found: Records = {
            "task": np.array("detection"),
            "classes": np.array(self._classes, dtype=np.str_),
            "count": np.array(self._count, dtype=np.int64),
            "operating_confidence": np.array(self._confidence, dtype=np.float64),
        }
        for prefix, parts, empty in (("det", self._detections, empty_d), ("gt", self._objects, empty_o)):
            for name in empty:
                found[f"{prefix}_{name}"] = np.concatenate([empty[name], *(part[name] for part in parts)])
        return found


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> DetectionCollector:
    """An empty collector."""
    return DetectionCollector(classes, settings)


def _nothing(classes: Sequence[str]) -> Detection:
    return Detection(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), tuple(classes))


def _no_objects() -> Boxes:
    return Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0))


def _match_image(prediction: Detection, target: Boxes) -> tuple[dict[str, Array], dict[str, Array]]:
    order = np.argsort(-prediction.scores, kind="stable")
    labels = prediction.labels[order].astype(np.int32)
    rank = _rank_in_class(labels)
    kept = rank < MAX_DETECTIONS
    labels, rank, boxes = labels[kept], rank[kept], prediction.boxes[order][kept].astype(np.float32)
    scores = prediction.scores[order][kept].astype(np.float32)
    wide = boxes.astype(np.float64)
    matched = np.zeros((len(labels), len(AREAS)), dtype=np.uint16)
    ignored = np.zeros_like(matched)
    gt_ignored = np.zeros((len(target.labels), len(AREAS)), dtype=np.bool_)
    gt_score = np.full(len(target.labels), -1.0, dtype=np.float32)
    for label in np.unique(target.labels):
        mine = np.flatnonzero(labels == label)
        theirs = np.flatnonzero(target.labels == label)
        result = match(wide[mine], target.boxes[theirs], target.crowd[theirs], target.area[theirs])
        matched[mine], ignored[mine] = result.matched, result.ignored
        gt_ignored[theirs] = result.out_of_range
        found = result.finder >= 0
        gt_score[theirs[found]] = scores[mine[result.finder[found]]]
    ignored |= outside_bits(wide, matched)
    detections: dict[str, Array] = {"label": labels, "score": scores, "rank": rank, "box": boxes}
    detections |= {"matched": matched, "ignored": ignored}
    objects: dict[str, Array] = {"label": target.labels.astype(np.int32), "box": target.boxes.astype(np.float32)}
    objects |= {"ignored": gt_ignored, "score": gt_score}
    return detections, objects


def _rank_in_class(labels: Array) -> Array:
    """How many earlier detections of the same class there are: int32 [D]."""
    by_class = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[by_class], labels[by_class], side="left")
    rank = np.empty(len(labels), dtype=np.int32)
    rank[by_class] = np.arange(len(labels)) - first
    return rank


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """All of :data:`METRICS` and, per class, of :data:`CLASS_METRICS`.

    ``map``, ``ap`` and ``ar`` follow COCO (101 recall levels, IoU 0.50:0.95, 1, 10 or 100 detections). ``recall`` and
    ``precision`` are those of the vehicle: IoU 0.5, scores at least ``operating_confidence``, over the objects and the
    detections of all classes together; ``recall_small`` counts objects of that size. What has no examples is absent.
    """
    weight = np.ones(int(records["count"])) if weights is None else np.asarray(weights, dtype=np.float64)
    classes = [str(name) for name in records["classes"]]
    per_class: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    renamed = {"ap": "map", "ap50": "map50", "ap75": "map75", **{f"ap_{size}": f"map_{size}" for size in SIZES}}
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
    ordered = {name: metrics[name] for name in METRICS if name in metrics}
    kept = {name: per_class[name] for name in CLASS_METRICS if name in per_class}
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
