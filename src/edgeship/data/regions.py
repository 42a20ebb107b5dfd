"""Masks of single objects, kept as bits of the window they fill; polygons and COCO's run lengths → masks.

Polygons are filled as COCO's own code fills them, and run lengths are read as it writes them: column after column,
zeros first. A mask of an object is an eighth of a byte a pixel of its window, so that an image may have hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FINE = 5
"""Steps of a pixel in which COCO's code walks along a polygon's edge."""


@dataclass(frozen=True)
class Region:
    """The pixels of one object: ``bits`` are those of a window [height, width] at (left, top), row after row.

    ``area``: pixels. ``image``: height and width of the image, where the mask tells them.
    """

    left: int
    top: int
    width: int
    height: int
    bits: Array
    area: int
    image: tuple[int, int] | None = None

    @property
    def pixels(self) -> Array:
        """The window, bool [height, width]."""
        count = self.width * self.height
        return np.unpackbits(self.bits, count=count).reshape(self.height, self.width).astype(np.bool_)

    def whole(self, height: int, width: int) -> Array:
        """The mask in an image of this size, bool [height, width]."""
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[self.top : self.top + self.height, self.left : self.left + self.width] = self.pixels
        return mask


def region(pixels: Array, left: int = 0, top: int = 0) -> Region:
    """The object of a mask bool [h, w] whose first pixel is (left, top) of the image."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return Region(left, top, 0, 0, np.zeros(0, dtype=np.uint8), 0)
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    inner = np.asarray(pixels[y0:y1, x0:x1], dtype=np.bool_)
    return Region(left + x0, top + y0, x1 - x0, y1 - y0, np.packbits(inner), int(np.count_nonzero(inner)))


def intersections(regions: Sequence[Region], others: Sequence[Region]) -> Array:
    """Pixels that each pair of masks shares, int64 [regions, others]."""
    shared = np.zeros((len(regions), len(others)), dtype=np.int64)
    windows = [other.pixels for other in others]
    for row, one in enumerate(regions):
        mine = None
        for column, other in enumerate(others):
            x0, y0 = max(one.left, other.left), max(one.top, other.top)
            x1 = min(one.left + one.width, other.left + other.width)
            y1 = min(one.top + one.height, other.top + other.height)
            if x1 <= x0 or y1 <= y0:
                continue
            mine = one.pixels if mine is None else mine
            part = mine[y0 - one.top : y1 - one.top, x0 - one.left : x1 - one.left]
            shared[row, column] = np.count_nonzero(
                part & windows[column][y0 - other.top : y1 - other.top, x0 - other.left : x1 - other.left]
            )
    return shared


def from_shape(shape: Any, height: int, width: int) -> Region:
    """The mask of a labelled object (see :class:`edgeship.data.objects.Boxes`) in an image of this size.

    Raises:
        DataError: No shape, or run lengths of another image size.
    """
    if shape is None:
        raise DataError("an object has no outline", expected="polygons or run lengths of every object")
    if isinstance(shape, Region):
        _require_size(shape.image or (height, width), height, width)
        return shape
    if isinstance(shape, dict):
        _require_size(shape["size"], height, width)
        return from_runs(run_lengths(shape["counts"]), height, width)
    parts = [filled(points, height, width) for points in shape]
    if len(parts) == 1:
        return parts[0]
    mask = np.zeros((height, width), dtype=np.bool_)
    for part in parts:
        mask[part.top : part.top + part.height, part.left : part.left + part.width] |= part.pixels
    return region(mask)


def _require_size(size: Sequence[int], height: int, width: int) -> None:
    if tuple(size) != (height, width):
        raise DataError(
            f"a mask is of {size[1]}×{size[0]} pixels, the image of {width}×{height}",
            expected="masks of the image as it was annotated, upright by its EXIF orientation",
            do="bring the masks to the size of the image",
        )


LONGEST_RUN = 2**31
"""Pixels of a run: more than any image has, and so few that their sum is exact."""
FAR_OUT = 100
"""Sides of the image that a polygon may reach beyond it: each edge is walked pixel by pixel."""


def filled(points: Array, height: int, width: int) -> Region:
    """The pixels inside a polygon float64 [n, 2], as COCO's ``frPyObjects`` fills it.

    Each edge is walked in fifths of a pixel; where the walk enters another column, everything below changes sides.

    Raises:
        DataError: A point lies so far outside that its label is not one of this image.
    """
    reach = float(np.abs(points).max(initial=0))
    if reach > FAR_OUT * max(height, width, 1):
        raise DataError(
            f"a polygon reaches {reach:.3g} pixels, the image is {width}×{height}",
            expected="x, y in pixels of the image",
        )
    fine = np.trunc(points * FINE + 0.5).astype(np.int64)
    walk = np.concatenate([_steps(start, end) for start, end in zip(fine, np.roll(fine, -1, axis=0), strict=True)])
    x, y = walk[:, 0], walk[:, 1]
    moved = np.flatnonzero(x[1:] != x[:-1]) + 1
    column = np.minimum(x[moved], x[moved - 1]) + np.where(x[moved] < x[moved - 1], 0, 0)
    place = (column + 0.5) / FINE - 0.5
    inside = (place == np.floor(place)) & (place >= 0) & (place <= width - 1)
    columns = place[inside].astype(np.int64)
    rows = np.minimum(y[moved], y[moved - 1])[inside]
    rows = np.ceil(np.clip((rows + 0.5) / FINE - 0.5, 0, height)).astype(np.int64)
    if not len(columns):
        return region(np.zeros((0, 0), dtype=np.bool_))
    first, last = int(columns.min()), int(columns.max()) + 1
    flips = np.bincount((columns - first) * height + rows, minlength=(last - first) * height + 1)
    odd = np.cumsum(flips[: (last - first) * height]) % 2 == 1
    return region(odd.reshape(last - first, height).T, left=first)


def _steps(start: Array, end: Array) -> Array:
    """The points [steps, 2] from one corner to the next, one a step along the longer side."""
    way = np.abs(end - start)
    long = 0 if way[0] >= way[1] else 1
    back = bool(start[long] > end[long])
    low, high = (end, start) if back else (start, end)
    count = int(way[long])
    step = np.arange(count, -1, -1) if back else np.arange(count + 1)
    slope = (high[1 - long] - low[1 - long]) / count if count else 0.0
    found = np.empty((count + 1, 2), dtype=np.int64)
    found[:, long] = low[long] + step
    found[:, 1 - long] = np.trunc(low[1 - long] + slope * step + 0.5)
    return found


def run_lengths(counts: Any) -> Array:
    """COCO's ``counts`` int64 [runs], from a list or from its compressed text.

    Raises:
        DataError: Neither of the two.
    """
    if isinstance(counts, (list, tuple, np.ndarray)):
        try:
            runs = np.asarray(counts)
        except ValueError:
            runs = np.zeros(0)
        if runs.ndim == 1 and np.issubdtype(runs.dtype, np.integer) and ((runs >= 0) & (runs <= LONGEST_RUN)).all():
            return runs.astype(np.int64)
    elif isinstance(counts, (str, bytes)) and (found := _decompressed(counts)) is not None:
        return found
    raise DataError(
        f"run lengths are {str(counts)[:40]}", expected="a list of whole numbers, or COCO's compressed text"
    )


def _decompressed(text: str | bytes) -> Array | None:
    """Six bits a character from '0': five of the number, one that says whether it goes on; from the third run on the
    difference to the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode() if isinstance(text, str) else text:
        part = byte - 48
        if not 0 <= part < 64 or shift > 60:
            return None
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        value -= (1 << shift) if part & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    whole = not shift and all(0 <= run <= LONGEST_RUN for run in runs)
    return np.array(runs, dtype=np.int64) if whole else None


def from_runs(runs: Array, height: int, width: int) -> Region:
    """The mask of run lengths that fill an image of this size."""
    odd = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return region(odd.reshape(width, height).T)


def to_runs(one: Region, height: int, width: int) -> list[int]:
    """The mask as COCO's uncompressed run lengths."""
    flat = one.whole(height, width).T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs
