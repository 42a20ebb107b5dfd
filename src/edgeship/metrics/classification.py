"""Classification: top-1, top-5 and recall per class.

Records of N images: ``label`` int32 [N], ``top`` int32 [N, k] (best first, k = min(5, classes)), ``score`` float32
[N] (probability of the best class).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.decode.predictions import Classification, Prediction
from edgeship.errors import DataError
from edgeship.metrics import Summary

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

CLASS_METRIC = "recall"
CLASS_METRICS = ("recall",)
DEPTH = 5


class ClassificationCollector:
    """Keeps the best five classes of each image."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._label: list[int] = []
        self._top: list[Array] = []
        self._score: list[float] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its class index."""
        assert isinstance(prediction, Classification)
        order = np.argsort(-prediction.scores, kind="stable")[:DEPTH]
        self._label.append(int(target))
        self._top.append(order.astype(np.int32))
        self._score.append(float(prediction.scores[order[0]]))

    def records(self) -> Records:
        """The arrays of this module's docstring."""
        depth = min(DEPTH, len(self._classes))
        return {
            "task": np.array("classification"),
            "classes": np.array(self._classes, dtype=np.str_),
            "label": np.array(self._label, dtype=np.int32),
            "top": np.stack(self._top) if self._top else np.zeros((0, depth), np.int32),
            "score": np.array(self._score, dtype=np.float32),
        }


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:
    """``top1``, ``recall`` and, unless there are five classes or fewer, ``top5``."""
    return ("top1", "recall") if classes is not None and len(classes) <= DEPTH else ("top1", "top5", "recall")


def collector(classes: Sequence[str], settings: Evaluation) -> ClassificationCollector:  # noqa: ARG001
    """An empty collector."""
    return ClassificationCollector(classes)


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """``top1``, ``top5`` (with more than five classes), ``recall`` (mean over classes) and recall per class."""
    label = records["label"]
    classes = [str(name) for name in records["classes"]]
    weight = np.ones(len(label)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = float(weight.sum())
    if total == 0:
        return Summary({})
    correct = records["top"][:, 0] == label
    metrics = {"top1": float(weight @ correct) / total}
    if len(classes) > DEPTH:
        metrics["top5"] = float(weight @ (records["top"] == label[:, None]).any(axis=1)) / total
    count = np.bincount(label, weight, minlength=len(classes))
    hit = np.bincount(label, weight * correct, minlength=len(classes))
    recall = {name: float(hit[k] / count[k]) for k, name in enumerate(classes) if count[k] > 0}
    metrics["recall"] = float(np.mean(list(recall.values())))
    examples = {name: round(float(count[k])) for k, name in enumerate(classes)}
    return Summary(metrics, {"recall": recall}, examples)


def resample(records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
    """See :meth:`edgeship.metrics.Task.resample`."""
    weight = np.asarray(weights, dtype=np.float64)
    found: dict[str, Array] = {}
    for name in names:
        metric, _, class_name = name.partition("/")
        if metric == "recall" and not class_name:
            found[name] = _mean_recall(records, weight)
            continue
        chosen = successes(records, metric, class_name or None)
        if chosen is None:
            raise DataError(f"classification has no metric {name!r}", expected="top1, top5, recall or recall/CLASS")
        mask, success = chosen
        count = weight @ mask
        with np.errstate(invalid="ignore", divide="ignore"):
            found[name] = np.where(count > 0, (weight @ (mask & success)) / count, np.nan)
    return found


def _mean_recall(records: RecordsLike, weight: Array) -> Array:
    """Mean over the classes of each resample: one count of (class, correct) pairs a resample, however many classes."""
    present, label = np.unique(records["label"], return_inverse=True)
    pair = 2 * label + (records["top"][:, 0] == records["label"])
    table = np.empty((len(weight), 2 * len(present)))
    for row, drawn in zip(table, weight, strict=True):
        row[:] = np.bincount(pair, drawn, minlength=len(row))
    missed, hit = table[:, 0::2], table[:, 1::2]
    drawn_classes = (missed + hit > 0).sum(axis=1)
    recall = np.divide(hit, missed + hit, out=np.zeros_like(hit), where=missed + hit > 0).sum(axis=1)
    result: Array = np.divide(recall, drawn_classes, out=np.full(len(weight), np.nan), where=drawn_classes > 0)
    return result


def successes(records: RecordsLike, metric: str, class_name: str | None) -> tuple[Mask, Mask] | None:
    """``top1``, ``top5`` over all images, ``recall`` over the images of one class."""
    label, top = records["label"], records["top"]
    everything = np.ones(len(label), dtype=np.bool_)
    if metric == "top1" and class_name is None:
        return everything, top[:, 0] == label
    if metric == "top5" and class_name is None and len(records["classes"]) > DEPTH:
        return everything, (top == label[:, None]).any(axis=1)
    if metric == "recall" and class_name is not None:
        position = np.flatnonzero(records["classes"] == class_name)
        if len(position) == 0:
            return None
        return label == position[0], top[:, 0] == label
    return None
