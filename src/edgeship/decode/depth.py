"""Depth maps out of a network: one output [batch, h, w] or [batch, 1, h, w] at any stride, in metres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.decode import dense
from edgeship.decode.predictions import Depth
from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array


def depths(outputs: Mapping[str, Array], geometries: Sequence[Geometry]) -> list[Depth]:
    """The depth of each image in its own pixels, by the nearest point of the output.

    Raises:
        OutputError: None of the outputs is a map, or several are.
    """
    maps = [value for value in outputs.values() if value.ndim == 3 or (value.ndim == 4 and value.shape[1] == 1)]
    if len(maps) != 1:
        raise OutputError(
            f"the model's outputs are {dense.describe(outputs)}; {len(maps) or 'none'} of them could be the depth",
            expected="one output [batch, h, w] or [batch, 1, h, w]",
            do="name it in evaluation.output" if maps else "check evaluation.task",
        )
    charts = maps[0].astype(np.float32).reshape(len(maps[0]), *maps[0].shape[-2:])
    return [Depth(geometry.mask_to_image(charts[row], np.nan)) for row, geometry in enumerate(geometries)]
