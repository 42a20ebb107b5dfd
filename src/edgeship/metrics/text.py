"""Lines of text: character error rate over the corpus (less is better), and the share of lines that are right.

The rate is the sum of Levenshtein distances over the sum of labelled characters, as jiwer's ``cer`` has it. Records:
see :mod:`edgeship.metrics.values`; beside them ``text`` [N], what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.decode.predictions import Prediction, Text
from edgeship.metrics import Summary, values

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

CLASS_METRIC = ""
CLASS_METRICS: tuple[str, ...] = ()
METRICS = ("cer", "exact")
LOWER = ("cer",)

resample = values.resample


class TextCollector:
    """Compares each line as it comes."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = tuple(symbols)
        self._rows: list[dict[str, tuple[float, float]]] = []
        self._read: list[str] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image; ``target`` is its text, of one character at least."""
        assert isinstance(prediction, Text)
        wrong = distance(prediction.text, target)
        exact = float(prediction.text == target)
        self._rows.append({"cer": (wrong / len(target), float(len(target))), "exact": (exact, 1.0)})
        self._read.append(prediction.text)

    def records(self) -> Records:
        """See this module's docstring."""
        found = values.pack("text", self._symbols, self._rows, LOWER)
        return found | {"text": np.array(self._read, dtype=np.str_)}


def distance(one: str, other: str) -> int:
    """The fewest characters to insert, delete or replace: Levenshtein's distance."""
    row: Array = np.arange(len(other) + 1)
    letters = np.array(list(other), dtype=np.str_)
    steps = np.arange(len(other) + 1)
    for letter in one:
        moved = row + 1
        moved[1:] = np.minimum(moved[1:], row[:-1] + (letters != letter))
        row = np.minimum.accumulate(moved - steps) + steps  # insertions run along the row
    return int(row[-1])


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """Both of :data:`METRICS`; symbols have no metrics of their own."""
    return Summary(values.summarize(records, weights).metrics)


def metric_names(classes: Sequence[str] | None) -> tuple[str, ...]:  # noqa: ARG001
    """All of :data:`METRICS`."""
    return METRICS


def collector(classes: Sequence[str], settings: Evaluation) -> TextCollector:  # noqa: ARG001
    """An empty collector; ``classes`` are the symbols of the dictionary, by which the vehicle reads too."""
    return TextCollector(classes)


def successes(
    records: RecordsLike,
    metric: str,
    class_name: str | None,
) -> tuple[Mask, Mask] | None:
    """``exact``: every line, and those that are right."""
    if metric != "exact" or class_name is not None:
        return None
    right = records["value/exact"] == 1.0
    return np.ones(len(right), dtype=np.bool_), right
