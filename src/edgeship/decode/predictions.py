"""What a model says about one image, in the image's own pixels and with class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.preprocess import Geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True)
class Classification:
    """``scores`` float32 [C]: probabilities in the order of ``classes``."""

    scores: Array
    classes: tuple[str, ...]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their scores, best first."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return [(self.classes[index], float(self.scores[index])) for index in order]


@dataclass(frozen=True)
class Detection:
    """Boxes of one image, best first.

    ``boxes`` float32 [N, 4] (x1, y1, x2, y2) in image pixels; ``scores`` float32 [N]; ``labels`` int64 [N], positions
    in ``classes``.
    """

    boxes: Array
    scores: Array
    labels: Array
    classes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.classes[label] for label in self.labels]

    def above(self, score: float) -> Detection:
        """The boxes with at least this score."""
        keep = self.scores >= score
        return Detection(self.boxes[keep], self.scores[keep], self.labels[keep], self.classes)


@dataclass(frozen=True)
class Segmentation:
    """``mask`` [height, width] of the image: class indices; -1 where a centre crop kept the model from seeing."""

    mask: Array
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Depth:
    """``metres`` float32 [height, width] of the image; NaN where a centre crop kept the model from seeing."""

    metres: Array


@dataclass(frozen=True)
class Raw:
    """The outputs of one image as they are, for a task of one's own, and how the image was placed in the input."""

    outputs: dict[str, Array]
    geometry: Geometry | None = None


@dataclass(frozen=True)
class Several:
    """The predictions of several tasks for one image: ``prediction["boxes"]``."""

    parts: Mapping[str, Classification | Detection | Segmentation | Depth | Raw]

    def __getitem__(self, name: str) -> Classification | Detection | Segmentation | Depth | Raw:
        return self.parts[name]


Prediction = Classification | Detection | Segmentation | Depth | Raw | Several
