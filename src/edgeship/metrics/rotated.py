"""Boxes that stand at an angle: AP and AR as for boxes, with the IoU of the boxes as they stand.

The COCO protocol: greedy matching, IoU 0.50 to 0.95, 101 recall levels. ``map_dota`` and, of a class, ``ap_dota`` are
what DOTA's development kit gives: an IoU above 0.5, each detection judged by the object that it fits best, difficult
objects left out, 11 recall levels. Records: see :mod:`edgeship.metrics.objects`; ``box`` is the upright box around
each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Evaluation
from edgeship.data import quads
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Rotated
from edgeship.errors import DataError
from edgeship.metrics import average_precision, detection
from edgeship.metrics.objects import Compared, ObjectsCollector, Protocol

if TYPE_CHECKING:
    from edgeship.metrics import Array

CLASS_METRIC, CLASS_METRICS = detection.CLASS_METRIC, (*average_precision.CLASS_METRICS, average_precision.AP_DOTA)
METRICS = (*average_precision.METRICS, average_precision.MAP_DOTA)
summarize, resample = detection.summarize, detection.resample
successes, groups = detection.successes, detection.groups


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> ObjectsCollector:
    """An empty collector."""
    return ObjectsCollector("rotated", classes, settings, Protocol(compare, devkit=True))


def compare(prediction: Rotated, target: Boxes) -> Compared:
    """Boxes by the IoU of their corners.

    Raises:
        DataError: Objects without corners, or with corners that cross.
    """
    if target.corners is None and len(target.labels):
        raise DataError("its objects have no corners", expected="four corners of every object")
    theirs = target.corners if target.corners is not None else np.zeros((0, 4, 2))
    bent = ~quads.convex(theirs)
    if bent.any():
        raise DataError(
            f"an object has the corners {theirs[bent][0].round(1).tolist()}",
            expected="four corners one after the other around the box",
        )
    corners = prediction.corners.astype(np.float64)

    def overlap(mine: Array, objects: Array) -> Array:
        return quads.iou(corners[mine], theirs[objects])

    return Compared(overlap, quads.areas(corners), target.crowd)
