"""Decoders of boxes that stand at an angle.

===============  ===================================================================================================
ultralytics-obb  ``[batch, 4 + classes + 1, anchors]``: centre and size in input pixels, class scores, and the angle of
                 the width in radians, clockwise from the x axis as one sees the image
===============  ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeship.data import quads
from edgeship.data.preprocess import Geometry
from edgeship.decode.boxes import Candidates, above
from edgeship.decode.detectors import Head
from edgeship.decode.predictions import Detection, Rotated
from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array

Outputs = Mapping[str, "Array"]
TURN = 2 * np.pi


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


ROTATED: dict[str, Callable[[Outputs, Geometry, int], Head | None]] = {"ultralytics-obb": ultralytics_obb}
"""As :data:`edgeship.decode.detectors.DECODERS`."""
