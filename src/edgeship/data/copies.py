"""The same picture twice, also where it was encoded again: by a small picture of each image."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

SIDE = 16
"""Rows and columns of the small picture."""
ALIKE = 0.9995
"""Correlation from which two small pictures are one; encoding an image again leaves more."""
FLAT = 1e-4
"""Norm of the small picture's contrast over its largest value, up to which an image is flat: rounding leaves less."""
REACH = float(np.sqrt(2 * (1 - ALIKE))) + 1e-4
"""How far two pictures that are alike may lie from each other along a direction, with what rounding adds."""
BLOCK, COLUMNS = 512, 1024
"""Pictures compared at once, with how many."""


def thumbnail(image: Array, *, channels_last: bool) -> Array:
    """A small grey picture of a preprocessed image [channels, height, width]: float32 [256], mean 0 and norm 1.

    All zeros where the image is flat: a flat image is a copy of nothing.
    """
    values = np.asarray(image, dtype=np.float32)
    size = values.shape[:2] if channels_last else values.shape[1:]
    if min(size) < SIDE:
        return np.zeros(SIDE * SIDE, dtype=np.float32)
    rows, columns = (np.arange(SIDE + 1) * side // SIDE for side in size)
    if channels_last:  # whole rows first: they lie side by side in memory
        strips = np.stack([values[top:end].sum(axis=0) for top, end in pairwise(rows)]).sum(axis=2)
    else:
        strips = np.stack([values[:, top:end].sum(axis=(0, 1)) for top, end in pairwise(rows)])
    sums = np.add.reduceat(strips.astype(np.float64), columns[:-1], axis=1)
    small = (sums / (np.diff(rows)[:, None] * np.diff(columns))).ravel()
    largest = float(np.abs(small).max())
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    found: Array = small / norm if norm > FLAT * largest else np.zeros_like(small)
    return found.astype(np.float32)


def first_of(thumbnails: Sequence[Array], digests: Sequence[str]) -> Array:
    """The position of the first image that is the same picture, by its bytes or its look: int64 [images]."""
    known: dict[str, int] = {}
    first = np.array([known.setdefault(digest, place) for place, digest in enumerate(digests)], dtype=np.int64)
    seen = np.array([place for place in known.values() if thumbnails[place].any()], dtype=np.int64)
    if len(seen) > 1:
        earliest = _earliest_alike(np.stack([thumbnails[place] for place in seen]), seen)
        for place, before in zip(seen, earliest, strict=True):
            if before < place:
                first[place] = min(first[place], first[before])
    return first[first]


def _earliest_alike(small: Array, places: Array) -> Array:
    """The smallest of ``places`` among the small pictures [n, 256] that are like each: int64 [n].

    Pictures that are alike lie close along any direction, so only neighbours along the one in which the set spreads
    most are compared; a block of comparisons has one size however many pictures there are.
    """
    spread = small - small.mean(axis=0)
    along = spread @ np.linalg.eigh(spread.T @ spread)[1][:, -1]
    order = np.argsort(along, kind="stable")
    small, along, places = small[order], along[order], places[order]
    earliest, never = places.copy(), np.iinfo(places.dtype).max
    ends = np.searchsorted(along, along + REACH, side="right")
    for start in range(0, len(small), BLOCK):
        rows = slice(start, min(start + BLOCK, len(small)))
        for left in range(start, ends[rows.stop - 1], COLUMNS):
            columns = slice(left, min(left + COLUMNS, ends[rows.stop - 1]))
            alike = small[rows] @ small[columns].T >= ALIKE
            if np.count_nonzero(alike) > (len(alike) if left == start else 0):  # more than each with itself
                of_row = np.where(alike, places[columns], never).min(axis=1)
                of_column = np.where(alike, places[rows, None], never).min(axis=0)
                np.minimum(earliest[rows], of_row, out=earliest[rows])
                np.minimum(earliest[columns], of_column, out=earliest[columns])
    found = np.empty_like(earliest)
    found[order] = earliest
    return found
