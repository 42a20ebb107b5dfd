"""Connected regions of a mask, and the smallest box that holds one, at whatever angle it stands; in numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def outlines(mask: Array, most: int) -> list[Array]:
    """The ends of every row of each connected region (pixels that touch at a corner are connected).

    Args:
        mask: bool [height, width].
        most: Of more regions, only so many are given: those of the most pixels.

    Returns:
        For each region float64 [2 · runs, 2]: (x, y) of the first and the last pixel of each run.
    """
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(steps == 1)
    end = np.nonzero(steps == -1)[1]
    region = _regions(row, start, end, steps.shape[1] + 1)
    pixels = np.bincount(region, end - start, minlength=1)
    names = np.flatnonzero(pixels)
    names = np.sort(names[np.argsort(-pixels[names], kind="stable")][:most])
    order = np.argsort(region, kind="stable")
    low, high = (np.searchsorted(region[order], names, side) for side in ("left", "right"))
    found = []
    for first, last in zip(low, high, strict=True):
        runs = order[first:last]
        x, y = np.concatenate([start[runs], end[runs] - 1]), np.tile(row[runs], 2)
        found.append(np.stack([x, y], axis=1).astype(np.float64))
    return found


def _regions(row: Array, start: Array, end: Array, stride: int) -> Array:
    """The number of the region of each run; runs are sorted by row and start, ``end`` is the pixel after the last."""
    above = (row - 1) * stride
    first = np.searchsorted(row * stride + end, above + start, side="left")
    last = np.searchsorted(row * stride + start, above + end, side="right")
    count = np.maximum(last - first, 0)
    mine = np.repeat(np.arange(len(row)), count)
    theirs = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    parent = np.arange(len(row))
    while True:
        least = np.minimum(parent[mine], parent[theirs])
        after = parent.copy()
        np.minimum.at(after, parent[mine], least)
        np.minimum.at(after, parent[theirs], least)
        while (after[after] != after).any():
            after = after[after]
        if (after == parent).all():
            return parent
        parent = after


def smallest_box(points: Array) -> tuple[Array, Array]:
    """The box of the least area around points float64 [n, 2], one side of which lies along a side of their hull.

    Returns:
        Corners float64 [4, 2], one after the other, and the lengths float64 [2] of its sides.
    """
    hull = _hull(points)
    sides = np.roll(hull, -1, axis=0) - hull
    length = np.hypot(sides[:, 0], sides[:, 1])
    along = sides[length > 0] / length[length > 0, None] if length.any() else np.array([[1.0, 0.0]])
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    places = np.stack([hull @ along.T, hull @ across.T])
    low, high = places.min(axis=1), places.max(axis=1)
    best = int((high - low).prod(axis=0).argmin())
    u, v = along[best], across[best]
    (left, top), (right, bottom) = low[:, best], high[:, best]
    corners = np.array([left * u + top * v, right * u + top * v, right * u + bottom * v, left * u + bottom * v])
    return corners, high[:, best] - low[:, best]


def _hull(points: Array) -> Array:
    """The convex hull (Andrew, "Another efficient algorithm for convex hulls in two dimensions", 1979)."""
    ordered = sorted(set(map(tuple, points.tolist())))
    if len(ordered) < 3:
        return np.array(ordered)
    halves = []
    for walk in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for x, y in walk:
            while len(half) > 1 and (half[-1][0] - half[-2][0]) * (y - half[-2][1]) <= (half[-1][1] - half[-2][1]) * (
                x - half[-2][0]
            ):
                half.pop()
            half.append((x, y))
        halves += half[:-1]
    return np.array(halves)
