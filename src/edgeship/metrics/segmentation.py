"""Segmentation: IoU per class over all pixels of all images, its mean, and pixel accuracy.

Records of N images and C classes: ``intersection``, ``predicted``, ``labelled`` int64 [N, C]: pixels; ``grid`` int16
[N, 64, 64]: the predicted class at 64 by 64 points spread over the image (-1: not seen by the model), for agreement
and small pictures. Pixels of ``ignore_index`` count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.decode.predictions import Prediction, Segmentation
from edgeship.errors import DataError
from edgeship.metrics import Summary

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

CLASS_METRIC = "iou"
GRID = 64
METRICS = ("miou", "pixel_accuracy")
CLASS_METRICS = ("iou", "recall")


class SegmentationCollector:
    """Counts pixels image by image."""

    def __init__(self, classes: Sequence[str], settings: Evaluation) -> None:
        self._classes = tuple(classes)
        self._ignore = settings.ignore_index
        self._counts: list[Array] = []
        self._grids: list[Array] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its mask [height, width]."""
        assert isinstance(prediction, Segmentation)
        self._counts.append(count_pixels(prediction.mask, np.asarray(target), len(self._classes), self._ignore))
        self._grids.append(_sampled(prediction.mask))

    def records(self) -> Records:
        """The arrays of this module's docstring."""
        counts = np.stack(self._counts) if self._counts else np.zeros((0, 3, len(self._classes)), np.int64)
        return {
            "task": np.array("segmentation"),
            "classes": np.array(self._classes, dtype=np.str_),
            "intersection": counts[:, 0],
            "predicted": counts[:, 1],
            "labelled": counts[:, 2],
            "grid": np.stack(self._grids) if self._grids else np.zeros((0, GRID, GRID), np.int16),
        }


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> SegmentationCollector:
    """An empty collector."""
    return SegmentationCollector(classes, settings)


def count_pixels(predicted: Array, labelled: Array, classes: int, ignore: int | None) -> Array:
    """Pixels of each class: int64 [3, classes]: intersection, predicted, labelled.

    Raises:
        DataError: The mask holds a value that is not a class and not ``ignore``.
    """
    mask = labelled.astype(np.int32)
    valid = np.ones(mask.shape, dtype=np.bool_) if ignore is None else mask != ignore
    if not valid.all():
        mask = np.where(valid, mask, 0)
    if mask.size and (mask.min() < 0 or mask.max() >= classes):
        stray = sorted(set(np.unique(mask).tolist()) - set(range(classes)))
        raise DataError(
            f"its mask holds the values {', '.join(str(value) for value in stray[:5])}",
            expected=f"class indices 0..{classes - 1}" + ("" if ignore is None else f", or {ignore} (ignore_index)"),
            do=f"set evaluation.ignore_index = {stray[-1]} if that marks pixels without a label"
            if ignore is None
            else "fix the mask or evaluation.classes",
        )
    # One more row and column: ignored pixels, and pixels the model did not see (-1).
    joint = np.where(valid, mask, classes) * (classes + 1) + np.where(predicted < 0, classes, predicted)
    table = np.bincount(joint.ravel(), minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)[:classes]
    return np.stack([np.diagonal(table), table[:, :classes].sum(axis=0), table.sum(axis=1)])


def _sampled(mask: Array) -> Array:
    rows = ((np.arange(GRID) + 0.5) * mask.shape[0] / GRID).astype(np.int64)
    columns = ((np.arange(GRID) + 0.5) * mask.shape[1] / GRID).astype(np.int64)
    result: Array = mask[rows[:, None], columns[None, :]].astype(np.int16)
    return result


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """``miou`` (mean over classes that occur in labels or predictions), ``pixel_accuracy``; ``iou`` and pixel
    ``recall`` per class. ``examples``: images whose mask shows the class."""
    count = len(records["labelled"])
    weight = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    names = [str(name) for name in records["classes"]]
    wanted = [*METRICS, *(f"{metric}/{name}" for metric in CLASS_METRICS for name in names)]
    values = {name: float(value[0]) for name, value in resample(records, weight[None, :], wanted).items()}
    shown = weight @ (records["labelled"] > 0)
    per_class = {
        metric: {
            name: values[f"{metric}/{name}"]
            for k, name in enumerate(names)
            if np.isfinite(values[f"{metric}/{name}"]) and shown[k] > 0
        }
        for metric in CLASS_METRICS
    }
    metrics = {name: values[name] for name in METRICS if np.isfinite(values[name])}
    return Summary(metrics, per_class, {name: round(float(shown[k])) for k, name in enumerate(names)})


def resample(records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
    """See :meth:`edgeship.metrics.Task.resample`."""
    weight = np.asarray(weights, dtype=np.float64)
    right = weight @ records["intersection"]
    labelled = weight @ records["labelled"]
    union = weight @ records["predicted"] + labelled - right
    iou, recall = _ratio(right, union), _ratio(right, labelled)
    classes = [str(name) for name in records["classes"]]
    found: dict[str, Array] = {}
    for name in names:
        metric, _, class_name = name.partition("/")
        if metric in CLASS_METRICS and class_name in classes:
            found[name] = (iou if metric == "iou" else recall)[:, classes.index(class_name)]
        elif name == "miou":
            present = np.isfinite(iou)
            found[name] = _ratio(np.where(present, iou, 0.0).sum(axis=1), present.sum(axis=1).astype(np.float64))
        elif name == "pixel_accuracy":
            found[name] = _ratio(right.sum(axis=1), labelled.sum(axis=1))
        else:
            raise DataError(
                f"segmentation has no metric {name!r}", expected="miou, pixel_accuracy, iou/CLASS or recall/CLASS"
            )
    return found


def _ratio(part: Array, whole: Array) -> Array:
    share: Array = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return share


def successes(
    records: RecordsLike,  # noqa: ARG001
    metric: str,  # noqa: ARG001
    class_name: str | None,  # noqa: ARG001
) -> tuple[Mask, Mask] | None:
    """None: pixels of one image are far from independent, so IoU is resampled over images."""
    return None
