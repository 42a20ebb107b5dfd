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
BLOCK = 2048


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
    small = np.stack(thumbnails) if len(thumbnails) else np.zeros((0, SIDE * SIDE), np.float32)
    for start in range(0, len(small), BLOCK):
        alike = small[start : start + BLOCK] @ small[: start + BLOCK].T >= ALIKE
        for row in np.flatnonzero(alike.sum(axis=1) > 1):
            place = start + int(row)
            before = int(np.argmax(alike[row]))
            if before < place:
                first[place] = min(first[place], first[before])
    return first
