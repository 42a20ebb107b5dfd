"""Decoders of boxes that stand at an angle.

===============  ===================================================================================================
ultralytics-obb  ``[batch, 4 + classes + 1, anchors]``: centre and size in input pixels, class scores, and the angle of
                 the width in radians, clockwise from the x axis as one sees the image
db               text detectors by differentiable binarization (PP-OCR, DBNet): one map ``[batch, 1, h, w]`` over the
                 input, of probabilities or, with ``evaluation.scores``, of logits; one class. Pixels from
                 ``evaluation.db_threshold`` on make regions; each gives the smallest box around the centres of its
                 pixels, whose score is the mean probability inside, grown on each side by area · ``db_unclip`` /
                 perimeter
===============  ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Evaluation
from edgeship.data import quads
from edgeship.data.components import outlines, smallest_box
from edgeship.data.preprocess import Geometry
from edgeship.decode.boxes import Candidates, above, sigmoid
from edgeship.decode.detectors import Head
from edgeship.decode.predictions import Detection, Rotated
from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array

Outputs = Mapping[str, "Array"]
TURN = 2 * np.pi
SHORTEST = 3.0
"""Pixels of the map: a box with a shorter side is no text, nor one that is less than two more after it has grown."""
PROBABLE = 1e-3
"""Rounding of FP16 and INT8 outputs beyond 0 and 1."""
MOST_REGIONS = 1000
"""The largest regions of a map; PP-OCR has the same bound."""


def ultralytics_obb(outputs: Outputs, _geometry: Geometry, _names: int) -> Head | None:
    """See the module's docstring; source: the Ultralytics OBB export's output layout."""
    rows = [value for value in outputs.values() if value.ndim == 3]
    if len(rows) != 1 or rows[0].shape[1] < 6 or rows[0].shape[1] >= rows[0].shape[2]:
        return None
    only = rows[0]

    def decode(row: int, threshold: float) -> Candidates:
        values = only[row]
        values = values[:, values[4:-1].max(axis=0) >= threshold].astype(np.float64).T
        angle = values[:, -1]
        if len(angle) and np.abs(angle).max() > TURN:
            raise OutputError(
                f"the model gives the angle {angle[np.abs(angle).argmax()]:g}",
                expected="radians, the width's from the x axis, clockwise",
                do='convert degrees in the model, or write a decoder: evaluation.decoder = "module:callable"',
            )
        corners = quads.from_angles(values[:, :2], values[:, 2:4], angle)
        return above(quads.bounds(corners), values[:, 4:-1], threshold, corners)

    return Head(only.shape[1] - 5, decode, suppress=True, shape=_shape, suppressor=_suppressed)


def text_regions(outputs: Outputs, geometry: Geometry, _names: int, settings: Evaluation) -> Head | None:
    """See the module's docstring; source: Liao et al., "Real-time scene text detection with differentiable
    binarization", AAAI 2020, and the post-processing of PP-OCR, which gives centres of pixels as whole numbers and
    takes holes for regions too."""
    maps = [value for value in outputs.values() if value.ndim == 4 and value.shape[1] == 1]
    if len(maps) != 1 or len(outputs) != 1:
        return None
    only = maps[0]
    scale = np.array([geometry.input_width / only.shape[3], geometry.input_height / only.shape[2]])

    def decode(row: int, threshold: float) -> Candidates:
        likely = only[row, 0].astype(np.float32)
        if settings.scores == "logits":
            likely = sigmoid(likely)
        elif likely.min() < -PROBABLE or likely.max() > 1 + PROBABLE:
            raise OutputError(
                f"the text map holds values from {likely.min():g} to {likely.max():g}",
                expected="probabilities",
                do='set evaluation.scores = "logits" where the model ends before its sigmoid',
            )
        boxes, scores = _text_boxes(likely, settings)
        kept = scores >= threshold
        corners = (boxes[kept] + 0.5) * scale
        around = quads.bounds(corners).astype(np.float32)
        return Candidates(around, scores[kept], np.zeros(len(around), dtype=np.int64), corners)

    return Head(1, decode, suppress=False, shape=_shape)


def _text_boxes(likely: Array, settings: Evaluation) -> tuple[Array, Array]:
    """Corners float64 [N, 4, 2] in pixels of the map, whose centres are whole numbers, and scores float32 [N]."""
    boxes, scores = [], []
    for points in outlines(likely >= settings.db_threshold, MOST_REGIONS):
        corners, sides = smallest_box(points)
        if sides.min() < SHORTEST:
            continue
        further = sides.prod() * settings.db_unclip / (2 * sides.sum())
        if sides.min() + 2 * further < SHORTEST + 2:
            continue
        along = (corners[1] - corners[0]) / sides[0] * further
        across = (corners[3] - corners[0]) / sides[1] * further
        boxes.append(corners + np.array([-along - across, along - across, along + across, across - along]))
        scores.append(_mean_inside(likely, corners))
    return np.array(boxes).reshape(-1, 4, 2), np.array(scores, dtype=np.float32)


def _mean_inside(likely: Array, corners: Array) -> float:
    """The mean of a map over the pixels whose centres lie in a box or on its edge."""
    left, top = np.floor(corners.min(axis=0)).astype(np.int64)
    right, bottom = np.ceil(corners.max(axis=0)).astype(np.int64) + 1
    window = likely[max(top, 0) : bottom, max(left, 0) : right]
    y, x = np.ogrid[max(top, 0) : max(top, 0) + window.shape[0], max(left, 0) : max(left, 0) + window.shape[1]]
    inside = np.ones(window.shape, dtype=np.bool_)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        way = end - start
        inside &= way[0] * (y - start[1]) - way[1] * (x - start[0]) >= -1e-6
    return float(window[inside].mean())


def _suppressed(found: Candidates, iou: float, limit: int) -> Array:
    assert found.extra is not None
    return quads.nms(found.extra, found.scores, found.labels, iou, limit)


def _shape(found: Detection, own: Candidates, _row: int, geometry: Geometry) -> Rotated:
    assert own.extra is not None
    offset, scale = np.array([geometry.left, geometry.top]), np.array([geometry.scale_x, geometry.scale_y])
    corners = (own.extra - offset) / scale
    return Rotated(found.boxes, found.scores, found.labels, found.classes, corners)


def own_rotated(decoder: str, found: Detection, corners: Array) -> Rotated:
    """The prediction of a decoder of the user's own.

    Raises:
        OutputError: Not four finite corners of each box, or corners that are not those of a convex box.
    """
    count = len(found.boxes)
    if corners.shape != (count, 4, 2) or not np.isfinite(corners).all() or not quads.convex(corners).all():
        expected = f"[{count}, 4, 2]: finite corners, one after the other around each box"
        raise OutputError(f"{decoder} returned corners {list(corners.shape)}", expected=expected)
    return Rotated(found.boxes, found.scores, found.labels, found.classes, corners)


def rotated_heads(settings: Evaluation) -> dict[str, Callable[[Outputs, Geometry, int], Head | None]]:
    """As :data:`edgeship.decode.detectors.DECODERS`, for these settings."""
    return {"ultralytics-obb": ultralytics_obb, "db": partial(text_regions, settings=settings)}
