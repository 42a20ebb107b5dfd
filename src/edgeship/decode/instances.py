"""Decoders of instance masks: which outputs they take, and boxes with masks from them.

================  ==================================================================================================
ultralytics-seg   ``[batch, 4 + classes + m, anchors]`` (centre and size in input pixels, class scores, coefficients) or
                  its end-to-end variant ``[batch, n, 6 + m]`` (x1, y1, x2, y2, score, class, coefficients), with
                  prototypes ``[batch, m, h, w]``: a mask is where the sum of coefficients times prototypes is above
                  0, inside its box
mask-rcnn         boxes ``[batch, n, 4]``, scores and labels ``[batch, n]`` as for ``nms``, or without a batch axis as
                  torchvision gives them, with masks ``[batch, n, h, w]`` or ``[batch, n, 1, h, w]`` of probabilities:
                  of the box (28 by 28), or of the whole input where they have its size; a mask is where they
                  reach 0.5
================  ==================================================================================================

Masks are interpolated bilinearly at the centres of the image's own pixels, as Ultralytics' ``process_mask_native`` and
Detectron2's ``paste_masks_in_image`` do, only inside the box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.data.regions import Region, region
from edgeship.decode.boxes import Candidates, above, corners
from edgeship.decode.detectors import Head, filtered, nms_parts
from edgeship.decode.predictions import Detection, Instances
from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array

Outputs = Mapping[str, "Array"]
SOLID = 0.5
"""Probability from which a pixel belongs to the object."""


def ultralytics_seg(outputs: Outputs, _geometry: Geometry, names: int) -> Head | None:
    """See the module's docstring; source: the Ultralytics segmentation export's output layout."""
    rows = [value for value in outputs.values() if value.ndim == 3]
    prototypes = [value for value in outputs.values() if value.ndim == 4]
    if len(rows) != 1 or len(prototypes) != 1:
        return None
    only, planes = rows[0], prototypes[0]
    count = planes.shape[1]
    classes = only.shape[1] - 4 - count
    if only.shape[2] == 6 + count and classes != names:
        return Head(None, _ended(only), suppress=False, shape=_of_prototypes(planes))
    if classes < 1 or only.shape[1] >= only.shape[2]:
        return None

    def decode(row: int, threshold: float) -> Candidates:
        values = only[row]
        scores = values[4 : 4 + classes]
        values = values[:, scores.max(axis=0) >= threshold].astype(np.float32).T
        end = 4 + classes
        return above(corners(values[:, :4]), values[:, 4:end], threshold, values[:, end:])

    return Head(classes, decode, suppress=True, shape=_of_prototypes(planes))


def _ended(only: Array) -> Callable[[int, float], Candidates]:
    def decode(row: int, threshold: float) -> Candidates:
        values = only[row].astype(np.float32)
        return filtered(values[:, :4], values[:, 4], values[:, 5], threshold, values[:, 6:])

    return decode


def _of_prototypes(planes: Array) -> Callable[[Detection, Candidates, int, Geometry], Detection]:
    def shape(found: Detection, own: Candidates, row: int, geometry: Geometry) -> Detection:
        assert own.extra is not None
        prototypes = planes[row].astype(np.float32)
        count, height, width = prototypes.shape
        flat = prototypes.reshape(count, -1)
        regions = []
        for box, weights in zip(found.boxes.astype(np.float64), own.extra, strict=True):
            left, top, right, bottom = (int(value) for value in np.ceil(box))
            x, y = _in_input(geometry, np.arange(left, right), np.arange(top, bottom))
            plane = (weights @ flat).reshape(height, width)
            values = sampled(
                plane, y * (height / geometry.input_height) - 0.5, x * (width / geometry.input_width) - 0.5
            )
            regions.append(region(values > 0, left, top))
        return _instances(found, regions, geometry)

    return shape


def mask_rcnn(outputs: Outputs, geometry: Geometry, _names: int) -> Head | None:
    """See the module's docstring; source: torchvision's and Detectron2's Mask R-CNN."""
    masks = [name for name, value in outputs.items() if value.ndim >= 4 or (value.ndim == 3 and value.shape[2] != 4)]
    if len(masks) != 1:
        return None
    planes = outputs[masks[0]]
    others = {name: value for name, value in outputs.items() if name != masks[0]}
    if any(value.ndim == 2 and value.shape[1] == 4 for value in others.values()):
        planes, others = planes[None], {name: value[None] for name, value in others.items()}
    parts = nms_parts(others)
    planes = planes[:, :, 0] if planes.ndim == 5 and planes.shape[2] == 1 else planes
    if parts is None or planes.ndim != 4 or planes.shape[:2] != parts[0].shape[:2]:
        return None
    boxes, scores, labels, count = parts
    whole = planes.shape[2:] == (geometry.input_height, geometry.input_width)

    def decode(row: int, threshold: float) -> Candidates:
        end = len(scores[row]) if count is None else int(count.reshape(-1)[row])
        place = np.arange(end)
        return filtered(boxes[row][:end], scores[row][:end], labels[row][:end], threshold, place)

    def shape(found: Detection, own: Candidates, row: int, geometry: Geometry) -> Detection:
        assert own.extra is not None
        regions = []
        for box, inner, place in zip(found.boxes.astype(np.float64), own.boxes, own.extra, strict=True):
            plane = np.pad(planes[row, place].astype(np.float32), 1)
            height, width = planes.shape[2:]
            left, top = (int(value) for value in np.floor(box[:2]))
            right, bottom = (int(value) for value in np.ceil(box[2:]))
            x, y = _in_input(geometry, np.arange(left, right), np.arange(top, bottom))
            if not whole:
                x1, y1, x2, y2 = inner.astype(np.float64)
                x, y = (x - x1) * (width / (x2 - x1)), (y - y1) * (height / (y2 - y1))
            regions.append(region(sampled(plane, y + 0.5, x + 0.5) >= SOLID, left, top))
        return _instances(found, regions, geometry)

    return Head(None, decode, suppress=False, shape=shape)


def _in_input(geometry: Geometry, columns: Array, rows: Array) -> tuple[Array, Array]:
    """Where the centres of columns and rows of the image lie in the network's input, in its pixels."""
    x = (columns + 0.5) * geometry.scale_x + geometry.left
    return x, (rows + 0.5) * geometry.scale_y + geometry.top


def sampled(plane: Array, y: Array, x: Array) -> Array:
    """A plane [h, w] at every pair of rows ``y`` and columns ``x``, bilinearly: float32 [rows, columns].

    Cell centres lie at whole numbers; beyond the outermost ones their value goes on.
    """
    values = plane
    for axis, places in ((0, y), (1, x)):
        last = plane.shape[axis] - 1
        low = np.clip(np.floor(places), 0, last).astype(np.int64)
        part = np.clip(places - low, 0, 1).astype(np.float32)
        part = part[:, None] if axis == 0 else part[None, :]
        values = values.take(low, axis) * (1 - part) + values.take(np.minimum(low + 1, last), axis) * part
    return values


def _instances(found: Detection, regions: list[Region], geometry: Geometry) -> Instances:
    return Instances(
        found.boxes, found.scores, found.labels, found.classes, tuple(regions), geometry.height, geometry.width
    )


def own_instances(decoder: str, found: Detection, masks: Array, geometry: Geometry) -> Instances:
    """The prediction of a decoder of the user's own.

    Raises:
        OutputError: Its masks do not have the image's size.
    """
    wanted = (len(found.boxes), geometry.height, geometry.width)
    if masks.shape != wanted:
        raise OutputError(f"{decoder} returned masks {list(masks.shape)}", expected=f"masks {list(wanted)}")
    return _instances(found, [region(mask.astype(np.bool_)) for mask in masks], geometry)


INSTANCES: dict[str, Callable[[Outputs, Geometry, int], Head | None]] = {
    "ultralytics-seg": ultralytics_seg,
    "mask-rcnn": mask_rcnn,
}
"""As :data:`edgeship.decode.detectors.DECODERS`."""
