"""Shapes of labelled objects: polygons, COCO's run-length encoding, keypoints, and the masks that they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.regions import run_lengths
from edgeship.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


def coco_shape(where: str, value: Any) -> Any:
    """A COCO ``segmentation`` as :class:`edgeship.data.objects.Boxes` keeps it.

    Raises:
        DataError: A polygon of fewer than three points, an odd number of coordinates, run lengths that do not fill
            their size, or another thing altogether.
    """
    if isinstance(value, dict) and set(value) >= {"size", "counts"}:
        return _runs(where, value["size"], value["counts"])
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{where} has segmentation {str(value)[:40]}",
            expected="polygons [[x1, y1, x2, y2, …], …] or a run-length encoding {size, counts}",
            do='label the object\'s outline, or set evaluation.task = "detection"',
        )
    return [polygon(where, part) for part in value]


def _runs(where: str, size: Any, counts: Any) -> dict[str, Any]:
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
    try:
        total = int(run_lengths(counts).sum())
    except DataError as error:
        raise DataError(f"{where} has {error.found}", expected=error.expected) from None
    if not whole or total != size[0] * size[1]:
        raise DataError(
            f"{where} has run lengths of {total} pixels for the size {str(size)[:40]}",
            expected="[height, width] of the image, and runs that fill it",
        )
    return {"size": size, "counts": counts}


def polygon(where: str, values: Any) -> Array:
    """Points float64 [points, 2] from a flat list x1, y1, x2, y2, ….

    Raises:
        DataError: Not numbers, an odd number of them, or fewer than three points.
    """
    try:
        flat = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        flat = np.zeros(0)
    if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all():
        raise DataError(
            f"{where} has a polygon of {flat.size} numbers",
            expected="x and y of at least three points",
            do="remove it, or label the outline again",
        )
    return flat.reshape(-1, 2)


def coco_points(where: str, value: Any) -> Array:
    """COCO ``keypoints`` as float64 [K, 3].

    Raises:
        DataError: Not three finite numbers a point, or a visibility other than 0, 1 and 2.
    """
    try:
        points = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 1 or points.size == 0 or points.size % 3 or not np.isfinite(points).all():
        raise DataError(f"{where} has keypoints {str(value)[:40]}", expected="x, y and visibility of each point")
    points = points.reshape(-1, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise DataError(
            f"{where} has a keypoint of visibility {points[~np.isin(points[:, 2], (0, 1, 2))][0, 2]:g}",
            expected="0 (not labelled), 1 (hidden) or 2 (visible)",
        )
    return points


def polygon_area(points: Array) -> float:
    """The area inside a closed line of points [n, 2]."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def bounds(polygons: Sequence[Array]) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) around polygons."""
    every = np.concatenate(list(polygons))
    low, high = every.min(axis=0), every.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
