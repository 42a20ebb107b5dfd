"""A task of one's own: ``task = "module:callable"``.

The callable gets the raw outputs of one image (a dict by output name, without the batch axis), its target and, where it
takes three arguments, its :class:`edgeship.data.preprocess.Geometry`. It returns a dict of metrics, each one of

* a number: the metric is the mean over the images; NaN leaves the image out;
* a pair (part, whole), such as (errors, characters): the metric is the sum of parts over the sum of wholes;
* a dict of class names to either: the metric of each class.

``callable.lower_is_better`` names the metrics of which less is better. A class is made once and may have ``finish``: it
gets the list of what was returned for each image and returns as many dicts as above, for metrics of the whole corpus.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.reference import resolve, user_code
from edgeship.decode.predictions import Prediction, Raw
from edgeship.errors import DataError
from edgeship.metrics import Summary, values

if TYPE_CHECKING:
    from edgeship.metrics import Array, Mask, Records, RecordsLike

EXPECTED = 'a dict of numbers, pairs or classes: {"psnr": 31.2, "cer": (3, 40), "iou": {"car": 0.7}}'


class CustomCollector:
    """Calls the user's function for each image."""

    def __init__(self, reference: str, classes: Sequence[str]) -> None:
        self._reference = reference
        self._score = resolve(reference)
        with user_code(reference):
            found: Any = inspect.unwrap(self._score)
            made: Any = found() if inspect.isclass(found) else found
            self._own: Callable[..., Any] = made
            lower = getattr(self._own, "lower_is_better", ())
            self._lower = (lower,) if isinstance(lower, str) else tuple(str(name) for name in lower)
            self._placed = _takes_three(self._own)
        self._finish: Callable[[list[Any]], Any] | None = getattr(self._own, "finish", None)
        self._classes = tuple(classes)
        self._rows: list[dict[str, tuple[float, float]]] = []
        self._kept: list[Any] = []
        self._names: set[str] = set()

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image."""
        assert isinstance(prediction, Raw)
        with user_code(self._reference):
            extra = (prediction.geometry,) if self._placed else ()
            found = self._own(prediction.outputs, target, *extra)
        if self._finish is not None:
            self._kept.append(found)
        else:
            self._rows.append(self._row(found))

    def _row(self, found: Any) -> dict[str, tuple[float, float]]:
        row = dict(_flat(self._reference, found))
        names = {str(name) for name in found}
        self._names = self._names or names
        if names != self._names:
            raise DataError(f"{self._reference} returned {sorted(names)}", expected=f"{sorted(self._names)}, as before")
        return row

    def records(self) -> Records:
        """See :mod:`edgeship.metrics.values`."""
        if self._finish is not None:
            with user_code(self._reference):
                found = list(self._finish(self._kept))
            if len(found) != len(self._kept):
                raise DataError(f"{self._reference} finished {len(found)} of {len(self._kept)} images", expected="all")
            self._rows = []
            for item in found:
                self._rows.append(self._row(item))
        seen = [name.partition("/")[2] for row in self._rows for name in row if "/" in name]
        classes = self._classes or tuple(dict.fromkeys(seen))
        stray = [name for name in dict.fromkeys(seen) if name not in classes]
        if stray:
            raise DataError(f"{self._reference} scored the class {stray[0]!r}", expected=", ".join(classes[:10]))
        unknown = sorted(set(self._lower) - self._names)
        if self._rows and unknown:
            expected = ", ".join(sorted(self._names))
            raise DataError(f"{self._reference}.lower_is_better names {unknown[0]!r}", expected=expected)
        return values.pack(self._reference, classes, self._rows, self._lower)


def _takes_three(found: Callable[..., Any]) -> bool:
    """Whether a callable takes the geometry as its third argument."""
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError:
        return False
    return True


def _flat(reference: str, found: Any) -> Iterator[tuple[str, tuple[float, float]]]:
    """``metric`` or ``metric/class`` with value and weight."""
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"{reference} returned {str(found)[:80]!r}", expected=EXPECTED)
    for name, value in found.items():
        if "/" in str(name) or not str(name):
            raise DataError(f"{reference} returned the metric {name!r}", expected="a name without a slash")
        if isinstance(value, Mapping):
            for class_name, part in value.items():
                yield f"{name}/{class_name}", _number(reference, f"{name} of {class_name}", part)
        else:
            yield str(name), _number(reference, str(name), value)


def _number(reference: str, name: str, value: Any) -> tuple[float, float]:
    pair = value if isinstance(value, tuple) and len(value) == 2 else None
    try:
        if any(isinstance(item, (str, bytes)) for item in pair or (value,)):
            raise TypeError
        part, whole = (float(pair[0]), float(pair[1])) if pair is not None else (float(value), 1.0)
    except (TypeError, ValueError):
        raise DataError(f"{reference} returned {name} = {str(value)[:80]!r}", expected=EXPECTED) from None
    if not np.isfinite(whole) or whole < 0:
        raise DataError(f"{reference} returned {name} out of {whole:g}", expected="a whole of 0 or more")
    return (part, whole) if pair is None else (part / whole if whole else 0.0, whole)


class CustomTask:
    """The functions of :class:`edgeship.metrics.Task` for per-image numbers."""

    def __init__(self, reference: str, records: RecordsLike | None = None) -> None:
        self._reference = reference
        self.CLASS_METRICS = values.class_metrics(records) if records is not None else None
        self.CLASS_METRIC = self.CLASS_METRICS[0] if self.CLASS_METRICS else ""

    def metric_names(self, classes: Sequence[str] | None) -> None:
        """None: the user's function names them when it scores an image."""

    def collector(self, classes: Sequence[str], settings: Evaluation) -> CustomCollector:  # noqa: ARG002
        """An empty collector."""
        return CustomCollector(self._reference, classes)

    def summarize(self, records: RecordsLike, weights: Array | None = None) -> Summary:
        """The weighted mean of each number."""
        return values.summarize(records, weights)

    def resample(self, records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
        """See :meth:`edgeship.metrics.Task.resample`."""
        return values.resample(records, weights, names)

    def successes(
        self,
        records: RecordsLike,  # noqa: ARG002
        metric: str,  # noqa: ARG002
        class_name: str | None,  # noqa: ARG002
    ) -> tuple[Mask, Mask] | None:
        """None: a mean of numbers is not a share of examples."""
        return None
