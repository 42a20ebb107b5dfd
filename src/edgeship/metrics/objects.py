"""Found objects against labelled ones, image by image: what detection, instance masks and their like record.

Records of N images, D detections (grouped by image, by falling score) and G objects:

``count``        int64, N
``det_image``    int32 [D]          ``det_label``  int32 [D]       ``det_score`` float32 [D]
``det_rank``     int32 [D], among those of its class in its image
``det_box``      float32 [D, 4]
``det_matched``, ``det_ignored``  uint16 [D, 4]: for each area range, bit t for IoU threshold t
``det_devkit``   uint8 [D], of rotated boxes: see :func:`edgeship.metrics.matching.match_devkit`
``gt_image``     int32 [G]          ``gt_label``   int32 [G]       ``gt_box`` float32 [G, 4]
``gt_ignored``   bool [G, 4]        ``gt_score``   float32 [G]: of the detection that found it at IoU 0.5, else -1
``operating_confidence`` float64
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection, Prediction
from edgeship.metrics.matching import AREAS, MAX_DETECTIONS, match, match_devkit, outside_bits

if TYPE_CHECKING:
    from edgeship.metrics import Array, Records, RecordsLike


@dataclass(frozen=True)
class Compared:
    """The detections of one image beside its objects, in the order in which they came.

    ``overlap`` takes places of detections [D] and of objects [G] and gives how well each pair fits, float64 [D, G];
    ``size`` float64 [detections]: the area of each detection; ``ignored`` bool [objects]: counts nowhere.
    """

    overlap: Callable[[Array, Array], Array]
    size: Array
    ignored: Array


Compare = Callable[[Any, Boxes], Compared]


@dataclass(frozen=True)
class Protocol:
    """How the objects of a task are compared.

    ``limit``: detections of a class in an image, by COCO's protocol. ``devkit``: match as DOTA's development kit does
    too, which knows no such limit. ``quick``: comparing all pairs at once costs less than class by class.
    """

    compare: Compare
    limit: int = MAX_DETECTIONS
    devkit: bool = False
    quick: bool = False


class ObjectsCollector:
    """Matches each image as it comes; keeps flags, scores and boxes."""

    def __init__(self, task: str, classes: Sequence[str], settings: Evaluation, protocol: Protocol) -> None:
        self._task, self._protocol = task, protocol
        self._classes = tuple(classes)
        self._confidence = settings.operating_confidence
        self._count = 0
        self._detections: list[Records] = []
        self._objects: list[Records] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its :class:`edgeship.data.objects.Boxes`."""
        assert isinstance(prediction, Detection)
        assert isinstance(target, Boxes)
        compared = self._protocol.compare(prediction, target)
        detections, objects = _match_image(prediction, target, compared, self._protocol)
        for kind, part in ((self._detections, detections), (self._objects, objects)):
            part["image"] = np.full(len(part["label"]), self._count, dtype=np.int32)
            kind.append(part)
        self._count += 1

    def records(self) -> Records:
        """The arrays of this module's docstring."""
        nothing = Compared(lambda mine, theirs: np.zeros((len(mine), len(theirs))), np.zeros(0), np.zeros(0, np.bool_))
        empty_d, empty_o = _match_image(_nothing(self._classes), _no_objects(), nothing, self._protocol)
        empty_d["image"] = empty_o["image"] = np.zeros(0, dtype=np.int32)
        found: Records = {
            "task": np.array(self._task),
            "classes": np.array(self._classes, dtype=np.str_),
            "count": np.array(self._count, dtype=np.int64),
            "operating_confidence": np.array(self._confidence, dtype=np.float64),
        }
        for prefix, parts, empty in (("det", self._detections, empty_d), ("gt", self._objects, empty_o)):
            for name in empty:
                found[f"{prefix}_{name}"] = np.concatenate([empty[name], *(part[name] for part in parts)])
        return found


def of_objects(records: RecordsLike) -> bool:
    """Whether records are those of found objects, whatever the task."""
    return "det_score" in records


def _nothing(classes: Sequence[str]) -> Detection:
    return Detection(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), tuple(classes))


def _no_objects() -> Boxes:
    return Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0))


def _match_image(
    prediction: Detection, target: Boxes, compared: Compared, protocol: Protocol
) -> tuple[Records, Records]:
    order = np.argsort(-prediction.scores, kind="stable")
    rank = _rank_in_class(prediction.labels[order])
    if not protocol.devkit:
        order, rank = order[rank < protocol.limit], rank[rank < protocol.limit]
    labels = prediction.labels[order].astype(np.int32)
    scores = prediction.scores[order].astype(np.float32)
    matched = np.zeros((len(labels), len(AREAS)), dtype=np.uint16)
    ignored = np.zeros_like(matched)
    devkit = np.zeros(len(labels), dtype=np.uint8)
    gt_ignored = np.zeros((len(target.labels), len(AREAS)), dtype=np.bool_)
    gt_score = np.full(len(target.labels), -1.0, dtype=np.float32)
    same = labels[:, None] == target.labels[None, :]
    if protocol.quick:
        overlap = np.where(same, compared.overlap(order, np.arange(len(target.labels))), 0.0)
    else:
        overlap = np.zeros(same.shape)
        for label in np.unique(target.labels):
            mine, theirs = np.flatnonzero(labels == label), np.flatnonzero(target.labels == label)
            overlap[np.ix_(mine, theirs)] = compared.overlap(order[mine], theirs)
    if protocol.devkit:
        for label in np.unique(target.labels):
            mine, theirs = np.flatnonzero(labels == label), np.flatnonzero(target.labels == label)
            devkit[mine] = match_devkit(overlap[np.ix_(mine, theirs)], compared.ignored[theirs])
    mine = np.flatnonzero(same.any(axis=1) & (rank < protocol.limit))
    result = match(overlap[mine], target.crowd, target.area, compared.ignored)
    matched[mine], ignored[mine] = result.matched, result.ignored
    gt_ignored[:] = result.out_of_range
    found = result.finder >= 0
    gt_score[found] = scores[mine[result.finder[found]]]
    ignored |= outside_bits(compared.size[order], matched)
    ignored[rank >= protocol.limit] = np.iinfo(np.uint16).max
    boxes = prediction.boxes[order].astype(np.float32)
    detections: Records = {"label": labels, "score": scores, "rank": rank, "box": boxes}
    detections |= {"matched": matched, "ignored": ignored}
    if protocol.devkit:
        detections["devkit"] = devkit
    objects: Records = {"label": target.labels.astype(np.int32), "box": target.boxes.astype(np.float32)}
    objects |= {"ignored": gt_ignored, "score": gt_score}
    return detections, objects


def _rank_in_class(labels: Array) -> Array:
    """How many earlier detections of the same class there are: int32 [D]."""
    by_class = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[by_class], labels[by_class], side="left")
    rank = np.empty(len(labels), dtype=np.int32)
    rank[by_class] = np.arange(len(labels)) - first
    return rank
