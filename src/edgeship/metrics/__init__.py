"""Task metrics from per-image records, so that a gate can pair images and resample them.

A task is a module with the functions of :class:`Task`, listed in one literal dict. Records are a dict of plain
numpy arrays (saved as ``.npz`` without pickle) that always holds ``task``, ``classes``, ``ids`` and ``digests``.
Higher is better, except for the metrics that the records name under ``lower``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgeship.errors import UserInputError
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeship.config import Evaluation
    from edgeship.decode.predictions import Prediction

    Array = NDArray[Any]
    Records = dict[str, Array]
    RecordsLike = Mapping[str, Array]
    Mask = NDArray[np.bool_]

TASKS = {
    "classification": "edgeship.metrics.classification",
    "detection": "edgeship.metrics.detection",
    "instances": "edgeship.metrics.instances",
    "keypoints": "edgeship.metrics.keypoints",
    "rotated": "edgeship.metrics.rotated",
    "segmentation": "edgeship.metrics.segmentation",
    "depth": "edgeship.metrics.depth",
    "text": "edgeship.metrics.text",
    "embeddings": "edgeship.metrics.embeddings",
}


@dataclass(frozen=True)
class Summary:
    """Task metrics over all images.

    ``metrics``: name → value. ``per_class``: metric → class name → value; classes without examples are absent.
    ``examples``: class name → labelled examples (images, objects, or images that show the class).
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)


class Collector(Protocol):
    """Takes predictions image by image and keeps what the metrics need."""

    def add(self, prediction: Prediction, target: Any) -> None:
        """Record one image."""
        ...

    def records(self) -> Records:
        """All that was recorded, in order."""
        ...


class Task(Protocol):
    """What a task's module offers."""

    CLASS_METRIC: str
    """The metric of a critical class when the gate says ``auto``: recall, ap or iou."""
    CLASS_METRICS: tuple[str, ...] | None
    """The metrics that are measured of each class; empty: none; None: only the records can tell."""

    def metric_names(self, classes: Sequence[str] | None) -> tuple[str, ...] | None:
        """The metrics of a set with these classes (None: not known yet), measured or not.

        None where only the records can tell.
        """
        ...

    def collector(self, classes: Sequence[str], settings: Evaluation) -> Collector:
        """An empty collector."""
        ...

    def summarize(self, records: RecordsLike, weights: Array | None = None) -> Summary:
        """All metrics; ``weights`` [images] says how often each image counts (default: once)."""
        ...

    def resample(self, records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
        """Chosen metrics under many weightings at once.

        Args:
            records: The records.
            weights: [B, images]: how often each image counts in each resample.
            names: ``"map"`` for a metric, ``"ap/person"`` for a metric of one class.

        Returns:
            Name → float64 [B]; NaN where a resample holds no example.
        """
        ...

    def successes(self, records: RecordsLike, metric: str, class_name: str | None) -> tuple[Mask, Mask] | None:
        """Which examples a metric counts and which of them succeeded, both boolean [examples].

        Two records of the same images give the same examples in the same order, so they pair one to one. None where
        the metric is not a share of examples (mAP, mIoU).
        """
        ...


def get(task: str) -> Task:
    """The module of a task; ``module:callable`` is a task of one's own (see :mod:`edgeship.metrics.custom`).

    Raises:
        UserInputError: No such task.
    """
    if task in TASKS:
        return cast(Task, importlib.import_module(TASKS[task]))
    from edgeship.data.reference import is_reference
    from edgeship.metrics.several import SeveralTasks, tasks_in

    if tasks_in(task):
        return SeveralTasks({name: get(item) for name, item in tasks_in(task).items()})
    if is_reference(task):
        from edgeship.metrics.custom import CustomTask

        return CustomTask(task)
    raise UserInputError(
        f"evaluation.task is {did_you_mean(task, list(TASKS))}", expected=f"{', '.join(TASKS)} or module:callable"
    )


def lower_is_better(records: RecordsLike, name: str) -> bool:
    """Whether less is better of a metric (``cer``) or of its part for a class (``cer/digits``)."""
    return "lower" in records and name.partition("/")[0] in records["lower"].tolist()


def task_of(records: RecordsLike) -> Task:
    """The task that wrote these records."""
    name = str(records["task"])
    from edgeship.metrics.several import tasks_in

    if name in TASKS or tasks_in(name):
        return get(name)
    from edgeship.metrics.custom import CustomTask
    from edgeship.metrics.several import SeveralTasks, part, tasks_in

    if tasks_in(name):
        return SeveralTasks({each: task_of(part(records, each)) for each in tasks_in(name)})
    return CustomTask(name, records)
