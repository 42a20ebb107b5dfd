"""Raw dumps of a camera (``[frames]``) → RGB, in exact integer arithmetic with numpy alone: the vehicle converts as
calibration and evaluation did.

YUV: Y, U and V of ITU-R BT.601 or BT.709 in limited (Y 16..235, chroma 16..240) or full range, multiplied by the
standard's factors rounded to 16 fractional bits, rounded half up once, and clipped. A chroma sample serves all pixels
that share it. Bayer: each missing colour is the rounded mean of its nearest two or four neighbours; the border repeats
the second row and column from it. Samples of more than 8 bits keep their upper 8 bits, after interpolation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import RawFrames
from edgeship.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Bytes = NDArray[np.uint8]

SUFFIXES = frozenset({".nv12", ".nv21", ".i420", ".yuv", ".yuyv", ".uyvy", ".raw", ".bayer"})
"""Files that hold raw dumps, one frame each."""
PATTERNS = {"bayer_rggb": (0, 0), "bayer_grbg": (0, 1), "bayer_gbrg": (1, 0), "bayer_bggr": (1, 1)}
"""Format → row and column of red in the two by two cell."""
_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""Matrix → weights of red and blue in the luma (ITU-R BT.601-7, BT.709-6)."""
_BITS = 16


def frame_bytes(layout: RawFrames) -> int:
    """Bytes of one frame."""
    return _rows(layout) * layout.row_bytes


def to_rgb(data: bytes | Array, layout: RawFrames, name: str = "frame") -> Bytes:
    """One raw frame → uint8 RGB [height, width, 3].

    Args:
        data: The bytes of a frame as they lie in memory, or an array of them of any shape.
        layout: How they lie there.
        name: What to call the frame in errors.

    Raises:
        DataError: The frame has another size.
    """
    whole = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else _as_bytes(data)
    wanted = frame_bytes(layout)
    if whole.size != wanted:
        raise DataError(
            f"{name} holds {whole.size:,} bytes",
            expected=f"{wanted:,} for {layout.format} of {layout.width}×{layout.height} at {layout.row_bytes} bytes "
            "a row",
            do="correct format, width, height or stride in [frames]",
        )
    rows = whole.reshape(_rows(layout), layout.row_bytes)
    if layout.format in PATTERNS:
        return _demosaic(_samples(rows, layout), PATTERNS[layout.format], layout.bits - 8)
    y, u, v = _planes(rows, layout)
    return _convert(y, u, v, layout)


def _rows(layout: RawFrames) -> int:
    """Rows of bytes in a frame, those of its chroma included."""
    planar = layout.format in ("nv12", "nv21", "i420")
    return layout.height * 3 // 2 if planar else layout.height


def _as_bytes(data: Array) -> Bytes:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)


def _samples(rows: Bytes, layout: RawFrames) -> Array:
    """The samples of a Bayer dump, [height, width]: uint8, or little-endian 16-bit words of which ``bits`` count."""
    if layout.bits == 8:
        return rows[:, : layout.width]
    return np.ascontiguousarray(rows[:, : 2 * layout.width]).view("<u2") & np.uint16((1 << layout.bits) - 1)


def _planes(rows: Bytes, layout: RawFrames) -> tuple[Array, Array, Array]:
    """Y [height, width], and U and V, each [height or half of it, width / 2]."""
    height, width = layout.height, layout.width
    if layout.format in ("yuyv", "uyvy"):
        packed = rows[:, : 2 * width].reshape(height, width // 2, 4)
        luma, chroma = (slice(0, None, 2), 1) if layout.format == "yuyv" else (slice(1, None, 2), 0)
        return packed[:, :, luma].reshape(height, width), packed[:, :, chroma], packed[:, :, chroma + 2]
    y, below = rows[:height, :width], rows[height:]
    if layout.format == "i420":  # rows of chroma are half as long, two of them in a row of luma
        halves = below.reshape(height, layout.row_bytes // 2)[:, : width // 2]
        return y, halves[: height // 2], halves[height // 2 :]
    first, second = below[:, 0:width:2], below[:, 1:width:2]
    return (y, first, second) if layout.format == "nv12" else (y, second, first)


def _convert(y: Array, u: Array, v: Array, layout: RawFrames) -> Bytes:
    red, blue = _WEIGHTS[layout.matrix]
    limited = layout.range == "limited"
    gain, spread, floor = (255 / 219, 255 / 224, 16) if limited else (1.0, 1.0, 0)
    green = 1.0 - red - blue

    def factor(value: float) -> int:
        return int(np.floor(value * (1 << _BITS) + 0.5))

    luma = (np.asarray(y, np.int32) - floor) * factor(gain) + (1 << (_BITS - 1))
    cb, cr = np.asarray(u, np.int32) - 128, np.asarray(v, np.int32) - 128
    parts = (
        cr * factor(2 * (1 - red) * spread),
        -cb * factor(2 * (1 - blue) * blue / green * spread) - cr * factor(2 * (1 - red) * red / green * spread),
        cb * factor(2 * (1 - blue) * spread),
    )
    height, width = luma.shape
    down = height // cb.shape[0]
    blocks = luma.reshape(cb.shape[0], down, width // 2, 2)
    out = np.empty((height, width, 3), np.uint8)
    for channel, part in enumerate(parts):
        value = blocks + part[:, None, :, None]
        value >>= _BITS
        np.clip(value, 0, 255, out=value)
        out[:, :, channel] = value.reshape(height, width)
    return out


def _demosaic(samples: Array, red: tuple[int, int], excess: int) -> Bytes:
    """Bilinear: the mean of the nearest samples of a colour, rounded half up."""
    height, width = samples.shape
    around = np.pad(samples.astype(np.int32), 1, mode="reflect")

    def at(down: int, right: int) -> Array:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    own = at(0, 0)
    sides, above = at(0, -1) + at(0, 1), at(-1, 0) + at(1, 0)
    across, corners = (sides + 1) >> 1, (at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1) + 2) >> 2
    beside, upright = (sides + above + 2) >> 2, (above + 1) >> 1
    out = np.empty((height, width, 3), np.int32)
    row, column = red
    for down in (0, 1):
        for right in (0, 1):
            cell = (slice(down, None, 2), slice(right, None, 2))
            on_row, on_column = down == row, right == column
            if on_row == on_column:  # a red or a blue sample
                values = (own, beside, corners) if on_row else (corners, beside, own)
            else:  # green: red lies beside it in red's rows, above it in the others
                values = (across, own, upright) if on_row else (upright, own, across)
            for channel, value in enumerate(values):
                out[(*cell, channel)] = value[cell]
    out >>= excess
    return out.astype(np.uint8)
