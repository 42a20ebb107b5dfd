"""Depth maps: one file for each image, ``.npy`` in metres or 16-bit PNG in steps of ``1 / depth_scale`` metres."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data import masks
from edgeship.data.dataset import Dataset
from edgeship.data.loader import Item
from edgeship.data.own_labels import open_own
from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class Reader:
    """Reads one map when its image is loaded: float64 [height, width] in metres, 0 where nothing was measured."""

    path: Path
    scale: float

    def __call__(self, geometry: Geometry) -> Array:
        values = masks.read(self.path, "depth map", "depths")
        if values.ndim != 2 or values.shape != (geometry.height, geometry.width):
            raise DataError(
                f"the depth map {self.path} has shape {list(values.shape)}, its image is "
                f"{geometry.width}×{geometry.height}",
                expected="a map of its image's size",
            )
        if values.dtype.kind not in "fiu":
            raise DataError(f"the depth map {self.path} has dtype {values.dtype}", expected="real numbers")
        metres = values.astype(np.float64)
        if np.issubdtype(values.dtype, np.integer):
            metres /= self.scale
        return np.where(np.isfinite(metres) & (metres > 0), metres, 0.0)


def open_depth(settings: Evaluation) -> Dataset:
    """Images of a folder with the maps of ``labels``, by name.

    Raises:
        DataError: No folder of maps, or none for any image.
    """
    if settings.labels is None or not settings.labels.is_dir():
        raise DataError("depth needs maps", expected="a folder of .npy or 16-bit .png in evaluation.labels")
    found = open_own(settings, None)
    items = tuple(
        Item(item.id, item.source, Reader(item.target(None), settings.depth_scale))
        for item in found.items
        if callable(item.target)
    )
    counts = None if found.counts is None else replace(found.counts, kind="depth maps")
    return replace(found, items=items, counts=counts)
