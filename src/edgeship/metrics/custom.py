"""A task of one's own: ``task = "module:callable"``.

The callable gets the raw outputs of one image (a dict by output name, without the batch axis) and its target, and
returns a dict of numbers, higher is better: ``{"psnr": 31.2}``. A metric is the mean over the images; a number that
is NaN leaves its image out of that metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.reference import resolve
from edgeship.decode.predictions import Prediction, Raw
from edgeship.errors import DataError
from edgeship.metrics import Summary

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

PREFIX = "value/"


class CustomCollector:
    """Calls the user's function for each image."""

    def __init__(self, reference: str, classes: Sequence[str]) -> None:
        self._reference = reference
        self._score = resolve(reference)
        self._classes = tuple(classes)
        self._values: list[dict[str, float]] = []

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image."""
        assert isinstance(prediction, Raw)
        values = self._score(prediction.outputs, target)
        if not isinstance(values, Mapping) or not values:
            raise DataError(f"{self._reference} returned {values!r}", expected='a dict of numbers: {"psnr": 31.2}')
        if self._values and set(values) != set(self._values[0]):
            raise DataError(f"{self._reference} returned {sorted(values)}", expected=f"{sorted(self._values[0])}")
        try:
            self._values.append({str(name): float(value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{self._reference} returned {values!r}: {error}", expected='a dict of numbers: {"psnr": 31.2}'
            ) from error

    def records(self) -> Records:
        """``value/NAME`` float64 [N] for each metric."""
        names = list(self._values[0]) if self._values else []
        found: Records = {
            "task": np.array(self._reference),
            "classes": np.array(self._classes, dtype=np.str_),
        }
        for name in names:
            found[PREFIX + name] = np.array([row[name] for row in self._values], dtype=np.float64)
        return found


class CustomTask:
    """The functions of :class:`edgeship.metrics.Task` for per-image numbers."""

    CLASS_METRIC = "recall"
    CLASS_METRICS: tuple[str, ...] = ()

    def __init__(self, reference: str) -> None:
        self._reference = reference

    def metric_names(self, classes: Sequence[str] | None) -> None:
        """None: the user's function names them when it scores an image."""

    def collector(self, classes: Sequence[str], settings: Evaluation) -> CustomCollector:  # noqa: ARG002
        """An empty collector."""
        return CustomCollector(self._reference, classes)

    def summarize(self, records: RecordsLike, weights: Array | None = None) -> Summary:
        """The weighted mean of each number."""
        names = [name.removeprefix(PREFIX) for name in records if name.startswith(PREFIX)]
        count = len(records[PREFIX + names[0]]) if names else 0
        weight = np.ones((1, count)) if weights is None else np.asarray(weights, dtype=np.float64)[None, :]
        values = self.resample(records, weight, names)
        return Summary({name: float(value[0]) for name, value in values.items() if np.isfinite(value[0])})

    def resample(self, records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
        """See :meth:`edgeship.metrics.Task.resample`."""
        found: dict[str, Array] = {}
        for name in names:
            if PREFIX + name not in records:
                raise DataError(f"{self._reference} gave no metric {name!r}")
            values = records[PREFIX + name]
            known = np.isfinite(values)
            count = weights @ known
            with np.errstate(invalid="ignore", divide="ignore"):
                found[name] = np.where(count > 0, (weights @ np.where(known, values, 0.0)) / count, np.nan)
        return found

    def successes(
        self,
        records: RecordsLike,  # noqa: ARG002
        metric: str,  # noqa: ARG002
        class_name: str | None,  # noqa: ARG002
    ) -> tuple[Mask, Mask] | None:
        """None: a mean of numbers is not a share of examples."""
        return None
