"""Boxes that stand at an angle, as four corners: their area, what two of them share, and suppression by it.

Corners are float64 [N, 4, 2] (x, y), in either direction around the box. Polygons are cut by half planes (Sutherland
and Hodgman, "Reentrant Polygon Clipping", CACM 1974), many pairs at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CHUNK = 4096
"""Pairs cut together."""


def from_angles(centre: Array, size: Array, angle: Array) -> Array:
    """Corners of boxes with ``centre`` [N, 2], ``size`` [N, 2] (width, height) and ``angle`` [N].

    Radians from the x axis towards the y axis, which points down: clockwise as one sees it, the way of the width.
    """
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    along = size[:, :1] / 2 * np.concatenate([cos, sin], axis=1)
    across = size[:, 1:] / 2 * np.concatenate([-sin, cos], axis=1)
    found: Array = np.stack(
        [centre + along + across, centre + along - across, centre - along - across, centre - along + across], axis=1
    )
    return found


def bounds(corners: Array) -> Array:
    """(x1, y1, x2, y2) around each: [N, 4]."""
    found: Array = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return found


def signed_areas(polygons: Array) -> Array:
    """Area inside each polygon [..., points, 2], negative where its points go the other way around."""
    from_first = polygons - polygons[..., :1, :]  # large coordinates lose no digits
    x, y = from_first[..., 0], from_first[..., 1]
    found: Array = (x * np.roll(y, -1, axis=-1) - np.roll(x, -1, axis=-1) * y).sum(axis=-1) / 2
    return found


def areas(corners: Array) -> Array:
    """Area inside each polygon [N, points, 2]: float64 [N]."""
    found: Array = np.abs(signed_areas(corners))
    return found


def convex(corners: Array) -> Array:
    """Which of them turn the same way at every corner: bool [N]. Others cross themselves, or have no area."""
    side = np.roll(corners, -1, axis=1) - corners
    after = np.roll(side, -1, axis=1)
    turn = side[..., 0] * after[..., 1] - side[..., 1] * after[..., 0]
    least = -1e-9 * np.abs(turn).max(axis=1, keepdims=True, initial=0)
    way = np.sign(signed_areas(corners))[:, None]
    found: Array = (turn * way >= least).all(axis=1) & (way[:, 0] != 0)
    return found


def flat(corners: Array) -> bool:
    """Whether all corners [points, 2] of one box lie on one line."""
    return bool(np.linalg.matrix_rank(corners - corners[0]) < 2)


def iou(corners: Array, others: Array) -> Array:
    """IoU float64 [N, M] of convex boxes."""
    shared = np.zeros((len(corners), len(others)))
    low, high = bounds(corners), bounds(others)
    near = (low[:, None, :2] < high[None, :, 2:]) & (high[None, :, :2] < low[:, None, 2:])
    rows, columns = np.nonzero(near.all(axis=2))
    for start in range(0, len(rows), CHUNK):
        row, column = rows[start : start + CHUNK], columns[start : start + CHUNK]
        shared[row, column] = _shared(corners[row], others[column])
    union = areas(corners)[:, None] + areas(others)[None, :] - shared
    found: Array = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    return found


def _shared(polygons: Array, cutters: Array) -> Array:
    """Area that each pair of convex boxes shares: float64 [pairs]."""
    backwards = signed_areas(cutters) < 0
    cutters = np.where(backwards[:, None, None], cutters[:, ::-1], cutters)
    for edge in range(cutters.shape[1]):
        start, way = cutters[:, edge], cutters[:, (edge + 1) % cutters.shape[1]] - cutters[:, edge]
        polygons = _cut(polygons, start[:, None], way[:, None])
    return areas(polygons)


def _cut(polygons: Array, start: Array, way: Array) -> Array:
    """What lies to the inner side of a line, as twice as many points: those that are cut away become copies of the one
    before them, which adds no area."""
    offset = polygons - start
    side = way[..., 0] * offset[..., 1] - way[..., 1] * offset[..., 0]
    after, side_after = np.roll(polygons, -1, axis=1), np.roll(side, -1, axis=1)
    kept, crossed = side >= 0, (side >= 0) != (side_after >= 0)
    part = np.divide(side, side - side_after, out=np.zeros_like(side), where=crossed)
    points = np.stack([polygons, polygons + part[..., None] * (after - polygons)], axis=2)
    there = np.stack([kept, crossed], axis=2).reshape(len(polygons), -1)
    points = points.reshape(len(polygons), -1, 2)
    place = np.where(there, np.arange(there.shape[1]), -1)
    place = np.maximum.accumulate(place, axis=1)
    place = np.where(place < 0, place[:, -1:], place)  # before the first one comes the last
    cut: Array = np.take_along_axis(points, np.maximum(place, 0)[..., None], axis=1)
    cut[place[:, -1] < 0] = 0.0
    return cut


def nms(corners: Array, scores: Array, labels: Array, limit_iou: float, limit: int) -> Array:
    """Indices that survive suppression within each class, by falling score: :func:`edgeship.decode.boxes.nms` with the
    IoU of the boxes as they stand."""
    alive = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(alive) and len(kept) < limit:
        first, alive = alive[0], alive[1:]
        kept.append(int(first))
        same = np.flatnonzero(labels[alive] == labels[first])
        gone = same[iou(corners[first][None], corners[alive[same]])[0] > limit_iou]
        alive = np.delete(alive, gone)
    return np.array(kept, dtype=np.int64)
