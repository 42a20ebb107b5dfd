"""Depth: absolute relative error (less is better) and δ < 1.25, each a mean over the images.

Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image", NIPS 2014: per image over the pixels that have a
measured depth and that the model saw, then over the images. Records: see :mod:`edgeship.metrics.values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.decode.predictions import Depth, Prediction
from edgeship.metrics import values

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

CLASS_METRIC = ""
CLASS_METRICS: tuple[str, ...] = ()
METRICS = ("abs_rel", "delta1")
LOWER = ("abs_rel",)
NEAR = 1.25

summarize, resample = values.summarize, values.resample


class DepthCollector:
    """Measures each image as it comes."""

    def __init__(self) -> None:
        self._rows: list[dict[str, tuple[float, float]]] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its map [height, width] in metres, 0 where nothing was measured."""
        assert isinstance(prediction, Depth)
        self._rows.append({name: (value, 1.0) for name, value in compare(prediction.metres, target).items()})

    def records(self) -> Records:
        """See :mod:`edgeship.metrics.values`."""
        return values.pack("depth", (), self._rows, LOWER)


def compare(found: Array, measured: Array) -> dict[str, float]:
    """Both metrics of one image, NaN where no pixel has a measured depth that the model saw.

    Args:
        found: float [height, width] in metres; NaN where the model did not look.
        measured: float [height, width] in metres; 0 where nothing was measured.
    """
    seen = (measured > 0) & np.isfinite(found)
    true, guess = measured[seen], found[seen].astype(np.float64)
    if true.size == 0:
        return dict.fromkeys(METRICS, float("nan"))
    ratio = np.maximum(guess / true, np.divide(true, guess, out=np.full(true.shape, np.inf), where=guess > 0))
    return {"abs_rel": float((np.abs(guess - true) / true).mean()), "delta1": float((ratio < NEAR).mean())}


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> DepthCollector:  # noqa: ARG001
    """An empty collector."""
    return DepthCollector()


def successes(
    records: RecordsLike,  # noqa: ARG001
    metric: str,  # noqa: ARG001
    class_name: str | None,  # noqa: ARG001
) -> tuple[Mask, Mask] | None:
    """None: a mean over images is not a share of examples."""
    return None
