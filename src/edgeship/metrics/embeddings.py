"""Embeddings: recall at k over the corpus.

Each image is a query against all others: it is found where one of its k nearest by cosine similarity is of its class.
Images without another one of their class count nowhere. A resample weights the queries; what they are looked up in
stays the whole corpus. Records: see :mod:`edgeship.metrics.values`; beside them ``nearest`` int64 [N].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.decode.predictions import Embedding, Prediction
from edgeship.metrics import values

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

CLASS_METRIC = ""
CLASS_METRICS: tuple[str, ...] = ()
DEPTHS = (1, 5, 10)
METRICS = tuple(f"recall{depth}" for depth in DEPTHS)
DIGITS = 12
"""Of a similarity: closer ones are equal, whatever order a processor sums in."""
BLOCK = 512
"""Queries looked up together."""

summarize, resample = values.summarize, values.resample


class EmbeddingsCollector:
    """Keeps the vector and the class of each image: all are needed to find the nearest."""

    def __init__(self) -> None:
        self._vectors: list[Array] = []
        self._labels: list[int] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its class."""
        assert isinstance(prediction, Embedding)
        self._vectors.append(prediction.vector)
        self._labels.append(int(target))

    def records(self) -> Records:
        """See this module's docstring."""
        label = np.array(self._labels, dtype=np.int64)
        vectors = np.stack(self._vectors) if self._vectors else np.zeros((0, 1), np.float32)
        order = nearest(vectors, max(DEPTHS))
        counts = np.bincount(label) if len(label) else np.zeros(0, dtype=np.int64)
        rows = []
        for row, mine in enumerate(label):
            alone = counts[mine] < 2
            same = label[order[row]] == mine
            rows.append({f"recall{depth}": (np.nan if alone else float(same[:depth].any()), 1.0) for depth in DEPTHS})
        found = values.pack("embeddings", (), rows)
        return found | {"nearest": order[:, 0] if order.shape[1] else np.zeros(len(label), dtype=np.int64)}


def nearest(vectors: Array, count: int) -> Array:
    """The ``count`` other rows (or all) with the highest cosine similarity, best first: int64 [N, count].

    ``vectors`` float [N, D]; of equal ones the first comes first.
    """
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    count = min(count, max(len(unit) - 1, 0))
    found = np.zeros((len(unit), count), dtype=np.int64)
    for start in range(0, len(unit), BLOCK):
        likeness = np.round(unit[start : start + BLOCK] @ unit.T, DIGITS)
        likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = -np.inf
        found[start : start + BLOCK] = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
    return found


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> EmbeddingsCollector:  # noqa: ARG001
    """An empty collector."""
    return EmbeddingsCollector()


def successes(records: RecordsLike, metric: str, class_name: str | None) -> tuple[Mask, Mask] | None:
    """The queries that count, and those that are found."""
    if metric not in METRICS or class_name is not None:
        return None
    value = records[f"value/{metric}"]
    return np.isfinite(value), value == 1.0
