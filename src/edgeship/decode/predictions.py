"""What a model says about one image, in the image's own pixels and with class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.data.regions import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

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

    def above(self, score: float) -> Self:
        """The boxes with at least this score."""
        return self.take(np.flatnonzero(self.scores >= score))

    def take(self, rows: Array) -> Self:
        """The boxes at these places, int64 [M]."""
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])


@dataclass(frozen=True)
class Instances(Detection):
    """Boxes with masks: ``regions`` holds one for each box, in an image of ``height`` by ``width`` pixels."""

    regions: tuple[Region, ...] = ()
    height: int = 0
    width: int = 0

    def take(self, rows: Array) -> Self:
        """The boxes at these places, int64 [M], with their masks."""
        return replace(super().take(rows), regions=tuple(self.regions[row] for row in rows))

    def mask(self, row: int) -> Array:
        """The mask of one box, bool [height, width]."""
        return self.regions[row].whole(self.height, self.width)

    def class_map(self) -> Array:
        """int16 [height, width]: 1 + the label of the best mask that covers a pixel, 0 where none does."""
        chart = np.zeros((self.height, self.width), dtype=np.int16)
        for row in np.argsort(self.scores, kind="stable"):
            one = self.regions[row]
            window = chart[one.top : one.top + one.height, one.left : one.left + one.width]
            window[one.pixels] = self.labels[row] + 1
        return chart


@dataclass(frozen=True)
class Poses(Detection):
    """Boxes with keypoints: ``points`` float32 [N, K, 3] (x, y in image pixels, confidence)."""

    points: Array = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))

    def take(self, rows: Array) -> Self:
        """The boxes at these places, int64 [M], with their points."""
        return replace(super().take(rows), points=self.points[rows])


@dataclass(frozen=True)
class Rotated(Detection):
    """Boxes that stand at an angle: ``corners`` float64 [N, 4, 2] (x, y) in image pixels, not cut at its edge;
    ``boxes`` are the upright ones around them, inside the image."""

    corners: Array = field(default_factory=lambda: np.zeros((0, 4, 2)))

    def take(self, rows: Array) -> Self:
        """The boxes at these places, int64 [M], with their corners."""
        return replace(super().take(rows), corners=self.corners[rows])


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
class Text:
    """The line of ``text`` that the image shows."""

    text: str


@dataclass(frozen=True)
class Embedding:
    """``vector`` float32 [D]."""

    vector: Array


@dataclass(frozen=True)
class Raw:
    """The outputs of one image as they are, for a task of one's own, and how the image was placed in the input."""

    outputs: dict[str, Array]
    geometry: Geometry | None = None


One = Classification | Detection | Segmentation | Depth | Text | Embedding | Raw
"""What one task says of one image."""


@dataclass(frozen=True)
class Several:
    """The predictions of several tasks for one image: ``prediction["boxes"]``."""

    parts: Mapping[str, One]

    def __getitem__(self, name: str) -> One:
        return self.parts[name]


Prediction = One | Several
