"""Boxes from raw detector outputs, and non-maximum suppression in numpy.

Every decoder gives, for each image, boxes float32 [N, 4] (x1, y1, x2, y2) in input pixels, scores float32 [N] and
labels int64 [N], before suppression and thresholds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from edgeship.metrics import Array


class Candidates(NamedTuple):
    """What a decoder gives for one image.

    ``extra`` [N, …]: what its shape is made from, where it has more than a box.
    """

    boxes: Array
    scores: Array
    labels: Array
    extra: Array | None = None


MOST_CANDIDATES = 30_000
"""The best ones that go into suppression; Ultralytics uses the same bound."""


def corners(boxes: Array) -> Array:
    """(centre x, centre y, width, height) → (x1, y1, x2, y2)."""
    half = boxes[..., 2:] / 2
    result: Array = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)
    return result


def above(boxes: Array, class_scores: Array, threshold: float, extra: Array | None = None) -> Candidates:
    """Every (box, class) pair whose score reaches the threshold: several classes of one box count each."""
    rows, labels = np.nonzero(class_scores >= threshold)
    scores = class_scores[rows, labels]
    if len(scores) > MOST_CANDIDATES:
        best = np.argpartition(-scores, MOST_CANDIDATES)[:MOST_CANDIDATES]
        rows, labels, scores = rows[best], labels[best], scores[best]
    more = None if extra is None else extra[rows]
    return Candidates(boxes[rows].astype(np.float32), scores.astype(np.float32), labels.astype(np.int64), more)


def best_class(boxes: Array, class_scores: Array, threshold: float) -> Candidates:
    """Each box with its best class, where that reaches the threshold."""
    labels = class_scores.argmax(axis=1)
    scores = class_scores[np.arange(len(labels)), labels]
    kept = scores >= threshold
    return Candidates(boxes[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept].astype(np.int64))


def nms(boxes: Array, scores: Array, labels: Array, iou: float, limit: int) -> Array:
    """Indices that survive suppression within each class, by falling score, at most ``limit``.

    A box goes when its IoU with a better one of its class is above ``iou``. Boxes of different classes are moved
    apart so that one pass serves all classes. Stops as soon as ``limit`` boxes are kept.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) == 0:
        return order
    moved = boxes[order].astype(np.float64)
    moved = moved + (labels[order] * (moved.max() - moved.min() + 1.0))[:, None]
    x1, y1, x2, y2 = (np.ascontiguousarray(column) for column in moved.T)
    area = np.maximum((x2 - x1) * (y2 - y1), 0.0)  # a box of negative width or height shares nothing with others
    kept: list[int] = []
    alive = np.arange(len(order))
    while len(alive) and len(kept) < limit:
        first, alive = alive[0], alive[1:]
        kept.append(int(first))
        wide = np.minimum(x2[first], x2[alive]) - np.maximum(x1[first], x1[alive])
        high = np.minimum(y2[first], y2[alive]) - np.maximum(y1[first], y1[alive])
        inside = np.maximum(wide, 0.0, out=wide)
        inside *= np.maximum(high, 0.0, out=high)
        alive = alive[inside * (1 + iou) <= iou * (area[first] + area[alive])]
    result: Array = order[np.array(kept, dtype=np.int64)]
    return result


def sigmoid(values: Array) -> Array:
    """The logistic function without overflow."""
    result: Array = 0.5 * (np.tanh(0.5 * values.astype(np.float32)) + 1.0)
    return result


@lru_cache(maxsize=16)
def yolox_grid(height: int, width: int, strides: tuple[int, ...]) -> tuple[Array, Array]:
    """Cell corners [A, 2] (x, y) and strides [A, 1] of YOLOX's anchors-free head, level by level."""
    cells, steps = [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        steps.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)
