"""Depth maps and their errors in colours."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

Stops = tuple[tuple[int, int, int], ...]
DEPTH: Stops = ((13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33))
"""Near to far: stops of matplotlib's plasma, whose lightness rises evenly (CC0)."""
ERROR: Stops = ((255, 255, 255), (253, 212, 158), (252, 141, 89), (215, 48, 31), (127, 0, 0))
"""None to 50 % and beyond: stops of ColorBrewer's OrRd (Apache-2.0)."""
NOTHING = (90, 98, 110)
"""Where nothing was measured, or the model did not look."""


def coloured(content: bytes, stops: Stops) -> bytes:
    """A PNG of colours from one of values: 0 nothing, 1 the first colour to 255 the last."""
    import numpy as np
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert("L")
    place, known = np.linspace(1, 255, len(stops)), np.arange(256)
    table: NDArray[Any] = np.stack([np.interp(known, place, channel) for channel in zip(*stops, strict=True)], axis=1)
    table[0] = NOTHING
    stream = io.BytesIO()
    picture.putpalette(np.rint(table).astype(np.uint8).tobytes())
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
