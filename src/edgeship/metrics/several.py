"""Several tasks of one model on the same images: metrics and classes carry the task's name, ``boxes.map``.

The task of such an evaluation is ``boxes=detection+lanes=segmentation``. Records hold the arrays of each task under
``NAME:``, and once what belongs to the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.metrics import Summary

if TYPE_CHECKING:
    from edgeship.config import Evaluation
    from edgeship.metrics import Array, Collector, Mask, Records, RecordsLike, Task

OF_IMAGES = ("ids", "digests", "copy_of", "group", "output_digests")
"""Arrays that belong to the images, whatever the task."""


def tasks_in(task: str) -> dict[str, str]:
    """Name → task of several tasks; empty for a single one."""
    parts = [item.partition("=") for item in task.split("+")]
    return {name: value for name, _, value in parts} if all(sign for _, sign, _ in parts) else {}


def tasks_of(records: RecordsLike) -> tuple[str, ...]:
    """The names of the tasks that wrote these records; empty where it was one."""
    return tuple(tasks_in(str(records["task"]))) if "task" in records else ()


def joined(parts: Mapping[str, Records]) -> Records:
    """The records of several tasks as one."""
    found: Records = {f"{name}:{key}": value for name, part in parts.items() for key, value in part.items()}
    found["task"] = np.array("+".join(f"{name}={part['task']}" for name, part in parts.items()))
    classes = [f"{name}.{item}" for name, part in parts.items() for item in part["classes"].tolist()]
    found["classes"] = np.array(classes, dtype=np.str_)
    return found


def part(records: RecordsLike, name: str) -> Records:
    """The records of one task among several."""
    own = {key.removeprefix(f"{name}:"): value for key, value in records.items() if key.startswith(f"{name}:")}
    return own | {key: records[key] for key in OF_IMAGES if key in records}


def classes_in(classes: Sequence[str], name: str) -> tuple[str, ...]:
    """The class names of one task out of those of all."""
    return tuple(item.removeprefix(f"{name}.") for item in classes if item.startswith(f"{name}."))


def _alone(metric: str, name: str) -> str:
    """What one task itself calls a metric, perhaps of a class: ``boxes.ap/boxes.cone`` is ``ap/cone``."""
    return "/".join(part.removeprefix(f"{name}.") for part in metric.split("/", 1))


class SeveralTasks:
    """:class:`edgeship.metrics.Task` for several at once; the gate judges each of them by itself."""

    CLASS_METRIC = ""
    CLASS_METRICS: tuple[str, ...] | None = ()

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = dict(tasks)

    def metric_names(self, classes: Sequence[str] | None) -> tuple[str, ...] | None:
        """All of them; None where one task's are only known from its records."""
        found: list[str] = []
        for name, task in self._tasks.items():
            names = task.metric_names(None if classes is None else classes_in(classes, name))
            if names is None:
                return None
            found += [f"{name}.{item}" for item in names]
        return tuple(found)

    def collector(self, classes: Sequence[str], settings: Evaluation) -> Collector:  # noqa: ARG002
        """Each task has a collector of its own. Raises TypeError."""
        raise TypeError("several tasks are collected one by one")

    def summarize(self, records: RecordsLike, weights: Array | None = None) -> Summary:
        """The metrics of each task under its name."""
        metrics: dict[str, float] = {}
        per_class: dict[str, dict[str, float]] = {}
        examples: dict[str, int] = {}
        for name, task in self._tasks.items():
            found = task.summarize(part(records, name), weights)
            metrics |= {f"{name}.{key}": value for key, value in found.metrics.items()}
            examples |= {f"{name}.{key}": value for key, value in found.examples.items()}
            for key, values in found.per_class.items():
                per_class[f"{name}.{key}"] = {f"{name}.{item}": value for item, value in values.items()}
        return Summary(metrics, per_class, examples)

    def resample(self, records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
        """See :meth:`edgeship.metrics.Task.resample`."""
        found: dict[str, Array] = {}
        for name, task in self._tasks.items():
            own = [item for item in names if item.startswith(f"{name}.")]
            if own:
                plain = [_alone(item, name) for item in own]
                values = task.resample(part(records, name), weights, plain)
                found |= {whole: values[short] for whole, short in zip(own, plain, strict=True)}
        return found

    def successes(self, records: RecordsLike, metric: str, class_name: str | None) -> tuple[Mask, Mask] | None:
        """See :meth:`edgeship.metrics.Task.successes`."""
        name, _, short = metric.partition(".")
        own = None if class_name is None else class_name.removeprefix(f"{name}.")
        return self._tasks[name].successes(part(records, name), short, own)
