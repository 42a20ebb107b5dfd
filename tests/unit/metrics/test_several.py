"""Metrics of several tasks: each one's own, under its name."""

from __future__ import annotations

import numpy as np

from edgeship import metrics
from edgeship.metrics import values
from edgeship.metrics.several import joined


def test_a_class_may_hold_what_a_task_is_called() -> None:
    rows = [{"iou": (0.5, 1.0), "iou/cars.old": (0.25, 1.0)}, {"iou": (1.0, 1.0), "iou/cars.old": (0.75, 1.0)}]
    records = joined({"s": values.pack("own:score", ("cars.old",), rows)})
    task = metrics.task_of(records)
    found = task.resample(records, np.ones((1, 2)), ["s.iou", "s.iou/s.cars.old"])
    assert {name: value.tolist() for name, value in found.items()} == {"s.iou": [0.75], "s.iou/s.cars.old": [0.5]}
