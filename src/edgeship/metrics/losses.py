"""What each image holds of a metric, and what a candidate lost of it: so that rare failures can be counted.

An image *holds* as many examples of a metric as it has to lose: one for top-1, the objects of a class for AP, the
pixels of a class for IoU, one for a number of one's own. False alarms and gains are not counted against a loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeship.metrics import values
from edgeship.metrics.matching import AREAS
from edgeship.metrics.objects import of_objects

if TYPE_CHECKING:
    from edgeship.metrics import Array, RecordsLike

OF_CLASSES = {"miou": "iou", "map": "ap", "map50": "ap50", "map75": "ap75", "ar": "ar"} | {
    f"map_{size}": f"ap_{size}" for size in AREAS if size != "all"
}
"""Means over classes, and the metric of a class that they are the mean of."""


def classes_of(records: RecordsLike, name: str) -> tuple[str, ...]:
    """For a mean over classes its parts, ``iou/person``; empty for every other metric."""
    part = OF_CLASSES.get(name)
    if name == "recall" and str(records["task"]) == "classification":
        part = "recall"
    return tuple(f"{part}/{item}" for item in records["classes"].tolist()) if part else ()


def held(records: RecordsLike, name: str) -> Array:
    """How much of a metric (``top1``, ``iou/person``) each image holds: float64 [images], at least 0."""
    metric, _, class_name = name.partition("/")
    task = str(records["task"])
    if task == "classification":
        label = records["label"]
        held_here = label == _index(records, class_name) if class_name else np.ones(len(label))
        found: Array = held_here.astype(np.float64)
        return found
    if task == "segmentation":
        pixels = records["labelled"]
        return np.asarray(pixels[:, _index(records, class_name)] if class_name else pixels.sum(axis=1), np.float64)
    if of_objects(records):
        mask = _objects(records, metric, class_name)
        count = int(records["count"])
        return np.bincount(records["gt_image"][mask], minlength=count).astype(np.float64)
    return values.weight_of(records, name)


def lost(reference: RecordsLike, candidate: RecordsLike, name: str) -> Array:
    """How much of what an image holds the candidate lost that the reference had: float64 [images], 0 to ``held``."""
    metric, _, class_name = name.partition("/")
    task, holds = str(reference["task"]), held(reference, name)
    if task == "classification":
        depth = slice(0, 1) if metric != "top5" else slice(None)
        right, still = (
            (item["top"][:, depth] == item["label"][:, None]).any(axis=1) for item in (reference, candidate)
        )
        gone: Array = holds * (right & ~still)
        return gone
    if task == "segmentation":
        fewer: Array = np.minimum(_pixels_lost(reference, candidate, metric, class_name), holds)
        return fewer
    if of_objects(reference):
        mask = _objects(reference, metric, class_name)
        least = float(reference["operating_confidence"]) if metric.startswith("recall") else 0.0
        away = mask & (reference["gt_score"] >= least) & (candidate["gt_score"] < least)
        return np.bincount(reference["gt_image"][away], minlength=len(holds)).astype(np.float64)
    return values.lost(reference, candidate, name)


def missed(records: RecordsLike, name: str) -> Array:
    """How much of what an image holds a model does not have right by itself: float64 [images], 0 to ``held``."""
    metric, _, class_name = name.partition("/")
    task, holds = str(records["task"]), held(records, name)
    if task == "classification":
        depth = slice(0, 1) if metric != "top5" else slice(None)
        right = (records["top"][:, depth] == records["label"][:, None]).any(axis=1)
        wrong: Array = holds * ~right
        return wrong
    if task == "segmentation":
        right = records["intersection"]
        found = right[:, _index(records, class_name)] if class_name else right.sum(axis=1)
        return np.asarray(holds - found, np.float64)
    if of_objects(records):
        mask = _objects(records, metric, class_name)
        least = float(records["operating_confidence"]) if metric.startswith("recall") else 0.0
        unfound = mask & (records["gt_score"] < least)
        return np.bincount(records["gt_image"][unfound], minlength=len(holds)).astype(np.float64)
    return values.missed(records, name)


def scale_of(reference: RecordsLike, candidate: RecordsLike, name: str) -> tuple[float, float]:
    """The value that an image which fails altogether has, and what that costs at most: see :func:`values.worst`."""
    if f"value/{name}" not in reference:
        return 0.0, 1.0
    return values.worst(reference, candidate, name)


def _pixels_lost(reference: RecordsLike, candidate: RecordsLike, metric: str, class_name: str) -> Array:
    """Pixels of the label that are no longer right and, for IoU, pixels that are newly claimed."""
    right = np.maximum(reference["intersection"] - candidate["intersection"], 0).astype(np.float64)
    if metric == "iou":
        claimed, more = ((item["predicted"] - item["intersection"]) for item in (reference, candidate))
        right = right + np.maximum(more - claimed, 0)
    found: Array = right[:, _index(reference, class_name)] if class_name else right.sum(axis=1)
    return found


def _objects(records: RecordsLike, metric: str, class_name: str) -> Array:
    """The counted objects of the metric's class and size: bool [objects]."""
    size = metric.rpartition("_")[2]
    mask: Array = ~records["gt_ignored"][:, list(AREAS).index(size if size in AREAS else "all")]
    return mask & (records["gt_label"] == _index(records, class_name)) if class_name else mask


def _index(records: RecordsLike, class_name: str) -> int:
    """Position of a class; -1 where there is none, which matches nothing."""
    places = np.flatnonzero(records["classes"] == class_name)
    return int(places[0]) if len(places) else -1
