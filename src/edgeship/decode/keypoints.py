"""Decoders of keypoints: which outputs they take, and boxes with points from them.

================  ==================================================================================================
ultralytics-pose  ``[batch, 4 + classes + 3 K, anchors]``: centre and size in input pixels, class scores, and x, y and
                  confidence of each point (2 K: x and y alone), or its end-to-end variant ``[batch, n, 6 + 3 K]``
                  (x1, y1, x2, y2, score, class, points)
================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.decode.boxes import Candidates, above, corners
from edgeship.decode.detectors import Head, filtered
from edgeship.decode.predictions import Detection, Poses
from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array

Outputs = Mapping[str, "Array"]


def ultralytics_pose(outputs: Outputs, _geometry: Geometry, names: int, told: int = 0) -> Head | None:
    """See the module's docstring; source: the Ultralytics pose export's output layout.

    ``told``: the numbers of a point, where the config's ``kpt_shape`` says them; 0: three where they divide, else two.
    """
    rows = [value for value in outputs.values() if value.ndim == 3]
    if len(rows) != 1:
        return None
    only = rows[0]
    end = 4 + names
    if end < only.shape[1] < only.shape[2] and (each := _numbers(only.shape[1] - end, told)):

        def decode(row: int, threshold: float) -> Candidates:
            values = only[row]
            values = values[:, values[4:end].max(axis=0) >= threshold].astype(np.float32).T
            points = values[:, end:].reshape(len(values), (values.shape[1] - end) // each, each)
            return above(corners(values[:, :4]), values[:, 4:end], threshold, points)

        return Head(names, decode, suppress=True, shape=_shape)
    if only.shape[2] > only.shape[1] or not (each := _numbers(only.shape[2] - 6, told)):
        return None

    def ended(row: int, threshold: float) -> Candidates:
        values = only[row].astype(np.float32)
        points = values[:, 6:].reshape(len(values), (values.shape[1] - 6) // each, each)
        return filtered(values[:, :4], values[:, 4], values[:, 5], threshold, points)

    return Head(None, ended, suppress=False, shape=_shape)


def _numbers(values: int, told: int) -> int:
    """How many numbers each point has; 0: these are not points."""
    return next((each for each in ((told,) if told else (3, 2)) if values > 0 and values % each == 0), 0)


def _shape(found: Detection, own: Candidates, _row: int, geometry: Geometry) -> Poses:
    assert own.extra is not None
    points = own.extra.astype(np.float64)
    x = (points[..., 0] - geometry.left) / geometry.scale_x
    y = (points[..., 1] - geometry.top) / geometry.scale_y
    sure = points[..., 2] if points.shape[-1] == 3 else np.ones(x.shape)
    placed = np.stack([x, y, sure], axis=-1).astype(np.float32)
    return Poses(found.boxes, found.scores, found.labels, found.classes, placed)


def own_keypoints(decoder: str, found: Detection, points: Array) -> Poses:
    """The prediction of a decoder of the user's own.

    Raises:
        OutputError: Its points do not have three numbers each, or are not finite.
    """
    if points.ndim != 3 or len(points) != len(found.boxes) or points.shape[2] != 3 or not np.isfinite(points).all():
        raise OutputError(
            f"{decoder} returned keypoints {list(points.shape)}",
            expected=f"[{len(found.boxes)}, keypoints, 3]: x, y and confidence, finite",
        )
    return Poses(found.boxes, found.scores, found.labels, found.classes, points.astype(np.float32))


KEYPOINTS: dict[str, Callable[..., Head | None]] = {"ultralytics-pose": ultralytics_pose}
"""As :data:`edgeship.decode.detectors.DECODERS`."""
