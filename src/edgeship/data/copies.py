"""The same picture twice, also where it was encoded again: by a small picture of each image."""

from __future__ import annotations

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
BLOCK = 2048


def thumbnail(image: Array, *, channels_last: bool) -> Array:
    """A small grey picture of a preprocessed image [channels, height, width]: float32 [256], mean 0 and norm 1.

    All zeros where the image is flat: a flat image is a copy of nothing.
    """
    grey = np.asarray(image, dtype=np.float32).mean(axis=-1 if channels_last else 0)
    rows, columns = (np.arange(SIDE) * size // SIDE for size in grey.shape)
    if min(grey.shape) < SIDE:
        return np.zeros(SIDE * SIDE, dtype=np.float32)
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    heights, widths = (np.diff([*edges, size]) for edges, size in zip((rows, columns), grey.shape, strict=True))
    small = (sums / (heights[:, None] * widths[None, :])).ravel()
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    found: Array = small / norm if norm > 1e-6 * max(float(np.abs(grey).max()), 1e-6) else np.zeros_like(small)
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
