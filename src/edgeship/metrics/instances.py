"""Instance masks by the COCO protocol: AP and AR as for boxes, with the IoU of masks in the place of that of boxes.

Equal to pycocotools' ``segm`` on the same masks. Labelled polygons and run lengths become masks image by image, and
none is kept. Records: see :mod:`edgeship.metrics.objects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.data.regions import from_shape, intersections
from edgeship.decode.predictions import Instances
from edgeship.errors import DataError
from edgeship.metrics import average_precision, detection
from edgeship.metrics.objects import Compared, ObjectsCollector, Protocol

if TYPE_CHECKING:
    from edgeship.metrics import Array

CLASS_METRIC, CLASS_METRICS = detection.CLASS_METRIC, average_precision.CLASS_METRICS
metric_names, summarize, resample = detection.metric_names, detection.summarize, detection.resample
successes, groups = detection.successes, detection.groups


def collector(classes: Sequence[str], settings: Evaluation) -> ObjectsCollector:
    """An empty collector."""
    return ObjectsCollector("instances", classes, settings, Protocol(compare))


def compare(prediction: Instances, target: Boxes) -> Compared:
    """Masks by their IoU; for crowds the intersection over the detection's area.

    Raises:
        DataError: Objects without masks, or masks of another image size.
    """
    if target.shapes is None and len(target.labels):
        raise DataError("its objects have boxes alone", expected="polygons or run lengths of every object")
    theirs = [from_shape(shape, prediction.height, prediction.width) for shape in target.shapes or ()]
    size, other = (np.array([one.area for one in masks], dtype=np.float64) for masks in (prediction.regions, theirs))

    def overlap(mine: Array, objects: Array) -> Array:
        inside = intersections([prediction.regions[row] for row in mine], [theirs[row] for row in objects])
        own = size[mine][:, None]
        union = np.where(target.crowd[objects][None, :], own, own + other[objects][None, :] - inside)
        share: Array = np.divide(inside, union, out=np.zeros(inside.shape), where=inside > 0)
        return share

    return Compared(overlap, size, target.crowd)
