"""Depth of one image as pictures: what was measured, what each model found, and how far off it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeship.decode.predictions import Depth
from edgeship.metrics.depth import compare
from edgeship.results import Answer, Artifact, ChangedImage, Harm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FAR_OFF = 0.5
"""Relative error that is drawn as the worst."""
STEPS = 254
"""Between the least value of a picture, 1, and the most, 255; 0: nothing is there."""


class Keeper(Protocol):
    """Keeps pictures of whole numbers: :class:`edgeship.pipeline.changes.Pictures`."""

    def mask(self, classes: Array) -> Artifact: ...


def changed_depth(shown: ChangedImage, before: Depth, after: Depth, measured: Array, kept: Keeper) -> ChangedImage:
    """An image with its depth.

    Args:
        shown: Picture, size, name and candidate.
        before: The reference's answer.
        after: The candidate's.
        measured: float [height, width] in metres; 0 where nothing was measured.
        kept: Where the pictures go.
    """
    known = measured[measured > 0]
    low, high = (float(value) for value in np.percentile(known, (2, 98))) if known.size else (0.0, 1.0)
    wrong, wrong_later = (compare(answer.metres, measured)["abs_rel"] for answer in (before, after))
    return shown.model_copy(
        update={
            "label": f"{low:.3g} to {high:.3g} m" if known.size else "no depth",
            "measured": kept.mask(scaled(measured, low, high, measured > 0)),
            "reference": _answer(before, measured, (low, high), kept),
            "answer": _answer(after, measured, (low, high), kept),
            "harm": harm_of(-wrong, -wrong_later),
        }
    )


def harm_of(good: float, later: float) -> Harm:
    """What a change did to a figure of which more is better."""
    return "worse" if later < good else "better" if later > good else "other"


def _answer(found: Depth, measured: Array, scale: tuple[float, float], kept: Keeper) -> Answer:
    metrics = compare(found.metres, measured)
    seen = np.isfinite(found.metres)
    both = seen & (measured > 0)
    off = np.divide(np.abs(found.metres - measured), measured, out=np.zeros(measured.shape), where=both)
    words = f"relative error {metrics['abs_rel']:.1%}, {metrics['delta1']:.1%} within a factor of 1.25"
    return Answer(
        text=words if both.any() else "no measured pixel that the model saw",
        depth=kept.mask(scaled(found.metres, *scale, seen)),
        error=kept.mask(scaled(off, 0.0, FAR_OFF, both)),
    )


def scaled(values: Array, low: float, high: float, there: Array) -> Array:
    """int64 [height, width]: 1 at ``low`` or below to 255 at ``high`` or beyond, 0 where nothing is ``there``."""
    span = max(high - low, 1e-12)
    share = np.clip((np.where(there, values, low) - low) / span, 0.0, 1.0)
    return np.where(there, 1 + np.rint(share * STEPS), 0).astype(np.int64)
