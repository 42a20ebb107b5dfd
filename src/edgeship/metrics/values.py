"""Metrics that are weighted means over images: what a task of one's own, depth, text and embeddings record.

Records of N images: ``value/METRIC`` or ``value/METRIC/CLASS`` float64 [N], NaN where an image has no number;
``weight/…`` float64 [N] of the same name where images count differently (characters, pixels, objects; default 1);
``lower`` the names of the metrics of which less is better. A metric is the sum of value times weight over the sum of
weights, so that a figure of the whole corpus (errors over characters) comes out of per-image records exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import DataError
from edgeship.metrics import Summary, lower_is_better

if TYPE_CHECKING:
    from edgeship.metrics import Array, Records, RecordsLike

VALUE, WEIGHT = "value/", "weight/"


def pack(
    task: str, classes: Sequence[str], rows: Sequence[Mapping[str, tuple[float, float]]], lower: Sequence[str] = ()
) -> Records:
    """Records from (value, weight) by metric for each image; a metric that an image lacks is NaN there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found: Records = {
        "task": np.array(task),
        "classes": np.array(tuple(classes), dtype=np.str_),
        "lower": np.array(tuple(lower), dtype=np.str_),
    }
    for name in names:
        pairs = np.array([row.get(name, (np.nan, 1.0)) for row in rows], dtype=np.float64)
        found[VALUE + name] = pairs[:, 0]
        if (pairs[:, 1] != 1.0).any():
            found[WEIGHT + name] = pairs[:, 1]
    return found


def names_in(records: RecordsLike) -> list[str]:
    """``metric`` and ``metric/class`` as recorded."""
    return [name.removeprefix(VALUE) for name in records if name.startswith(VALUE)]


def weight_of(records: RecordsLike, name: str) -> Array:
    """How much each image counts in a metric: float64 [N], 0 where it has no number."""
    values = records[VALUE + name]
    weight = records.get(WEIGHT + name, np.ones(len(values)))
    found: Array = np.where(np.isfinite(values), weight, 0.0)
    return found


def resample(records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
    """See :meth:`edgeship.metrics.Task.resample`."""
    found: dict[str, Array] = {}
    for name in names:
        if VALUE + name not in records:
            raise DataError(f"{records['task']} gave no metric {name!r}", expected=", ".join(names_in(records)[:10]))
        values, own = records[VALUE + name], weight_of(records, name)
        total = weights @ own
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (weights @ (np.where(own > 0, values, 0.0) * own)) / total
        found[name] = np.where(total > 0, mean, np.nan)
    return found


def summarize(records: RecordsLike, weights: Array | None = None) -> Summary:
    """Each metric, overall and per class; ``examples``: images that have a number for the class."""
    names = names_in(records)
    count = len(records[VALUE + names[0]]) if names else 0
    weight = np.ones((1, count)) if weights is None else np.asarray(weights, dtype=np.float64)[None, :]
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    examples = {str(name): 0 for name in records["classes"]}
    for name, value in resample(records, weight, names).items():
        metric, _, class_name = name.partition("/")
        if class_name:
            shown = round(float((weight @ (weight_of(records, name) > 0))[0]))
            examples[class_name] = max(examples.get(class_name, 0), shown)
        if np.isfinite(value[0]):
            (per_class.setdefault(metric, {}) if class_name else metrics)[class_name or metric] = float(value[0])
    return Summary(metrics, per_class, examples)


def class_metrics(records: RecordsLike) -> tuple[str, ...]:
    """The metrics that are recorded of classes, in their order."""
    return tuple(dict.fromkeys(name.partition("/")[0] for name in names_in(records) if "/" in name))


def worst(reference: RecordsLike, candidate: RecordsLike, name: str) -> tuple[float, float]:
    """The value that an image which fails altogether has, and what that costs at most.

    A share falls to 0 (where less is better, rises to 1) and costs 1. Other numbers go as far as the worst that either
    model gave, and cost the way there from the reference's mean.
    """
    less = lower_is_better(reference, name)
    parts = [item[VALUE + name][weight_of(item, name) > 0] for item in (reference, candidate)]
    values = np.concatenate(parts)
    if values.size == 0 or (values.min() >= 0 and values.max() <= 1):
        return (1.0 if less else 0.0), 1.0
    far = float(values.max() if less else values.min())
    mean = float(parts[0].mean()) if parts[0].size else far
    return far, abs(mean - far)


def lost(reference: RecordsLike, candidate: RecordsLike, name: str) -> Array:
    """How much of what an image holds (its weight) the candidate lost: float64 [N]."""
    before, holds = reference[VALUE + name], weight_of(reference, name)
    after = np.where(weight_of(candidate, name) > 0, candidate[VALUE + name], before)
    way = worst(reference, candidate, name)[0] - before
    share = np.divide(after - before, way, out=np.zeros(len(before)), where=(holds > 0) & (np.abs(way) > 0))
    found: Array = holds * np.clip(np.where(holds > 0, share, 0.0), 0.0, 1.0)
    return found


def missed(records: RecordsLike, name: str) -> Array:
    """How much of what an image holds (its weight) is wrong, from the best value (0) to the worst (1): float64 [N].

    The best of a share is 1 (where less is better, 0), of other numbers the best that the model gave.
    """
    numbers, holds = records[VALUE + name], weight_of(records, name)
    far, _ = worst(records, records, name)
    known = numbers[holds > 0]
    shares = known.size == 0 or (known.min() >= 0 and known.max() <= 1)
    best = 1.0 - far if shares else float(known.min() if far == known.max() else known.max())
    share = np.divide(numbers - best, far - best, out=np.zeros(len(numbers)), where=(holds > 0) & (far != best))
    found: Array = holds * np.clip(share, 0.0, 1.0)
    return found
