"""OpenCV's bilinear resize of 8-bit images (``INTER_LINEAR``) in numpy alone, equal to OpenCV 5.0 to the last bit.

Networks of the YOLO family are trained on images that OpenCV resized. Its filter looks at two pixels in each direction
also where the image shrinks, where Pillow's widens: the two differ by many grey levels on fine structures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_ONE = 2048
"""A weight of 1 in OpenCV's fixed point."""
_STRIP = 32
"""Rows that are made at once, so that what is in between stays in the processor's cache."""


def resize(pixels: Array, size: tuple[int, int], window: tuple[int, int, int, int] | None = None) -> Array:
    """The resized image, or a window of it.

    Args:
        pixels: uint8 [height, width] or [height, width, channels].
        size: (height, width) of the whole resized image.
        window: (top, left, height, width) within it, which alone is made; default: all of it.

    Returns:
        uint8 [height, width] or [height, width, channels] of the window.
    """
    top, left, height, width = window or (0, 0, *size)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    upper, lower, above, below = (item[top : top + height] for item in _taps(pixels.shape[0], size[0]))
    first, second, before, after = (item[left : left + width] for item in _taps(pixels.shape[1], size[1], inside=True))
    each = np.arange(channels)
    near, far = ((item[:, None] * channels + each).ravel() for item in (first, second))
    before, after = np.repeat(before, channels), np.repeat(after, channels)
    flat = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1)
    made = np.empty((height, width * channels), np.uint8)
    for start in range(0, height, _STRIP):
        rows = slice(start, min(start + _STRIP, height))
        count = rows.stop - rows.start
        needed, place = np.unique(np.concatenate([upper[rows], lower[rows]]), return_inverse=True)
        lines = flat[needed]
        along = np.take(lines, near, axis=1).astype(np.int32) * before
        along += np.take(lines, far, axis=1).astype(np.int32) * after
        along >>= 4
        values = along[place[:count]] * above[rows, None] >> 16
        values += along[place[count:]] * below[rows, None] >> 16
        made[rows] = (values + 2) >> 2
    return made.reshape((height, width, *pixels.shape[2:]))


def _taps(length: int, count: int, inside: bool = False) -> tuple[Array, Array, Array, Array]:
    """For each output pixel of one axis: both source pixels, and their weights in fixed point.

    Args:
        length: Source pixels.
        count: Output pixels.
        inside: Whether a pixel beyond the border has all the weight of the border's, as OpenCV has it along the width.
    """
    place = ((np.arange(count) + 0.5) * (length / count) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = place - first.astype(np.float32)
    if inside:
        share[(first < 0) | (first >= length - 1)] = 0
    weights = (np.rint(item * np.float32(_ONE)).astype(np.int32) for item in (1 - share, share))
    return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1), *weights
