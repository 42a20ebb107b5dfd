"""Confusions, calibration of confidence and shared mistakes, on records that can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection
from edgeship.metrics import detection
from edgeship.metrics.average_precision import RECALL_LEVELS, precision_recall
from edgeship.metrics.insight import Shared, confusion, reliability, shared


def classified(label: list[int], first: list[int], score: list[float]) -> dict[str, Any]:
    top = np.array(first, np.int32)
    return {
        "task": np.array("classification"), "classes": np.array(["a", "b", "c"]), "label": np.array(label, np.int32),
        "top": np.stack([top, (top + 1) % 3], axis=1), "score": np.array(score, np.float32),
    }  # fmt: skip


def test_a_confusion_counts_true_class_by_answer() -> None:
    found = confusion(classified([0, 0, 1, 2, 2], [0, 1, 1, 2, 0], [0.9] * 5))
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_reliability_is_the_mean_gap_weighted_by_answers() -> None:
    found = reliability(classified([0] * 5, [0, 0, 1, 0, 1], [0.95, 0.95, 0.95, 0.55, 0.55]))
    assert found is not None
    assert [count for _, _, count in found.bins] == [2, 3]
    assert found.bins[1][:2] == pytest.approx((0.95, 2 / 3))
    assert found.error == pytest.approx((3 * (0.95 - 2 / 3) + 2 * (0.55 - 0.5)) / 5)
    assert reliability({"task": np.array("segmentation")}) is None
    assert reliability(classified([], [], [])) is None


def test_shared_mistakes_of_images() -> None:
    base = classified([0, 0, 0, 0], [0, 0, 1, 1], [0.9] * 4)
    other = classified([0, 0, 0, 0], [0, 1, 0, 2], [0.9] * 4)
    found = shared(base, other)
    assert found == Shared("images", 1, 1, 1, 1) and found.total == 4
    assert shared({"task": np.array("segmentation")}, {}) is None


def detected(scores: list[float]) -> dict[str, Any]:
    """One image with an object of one class for each score, found exactly; a wrong box of 0.4 beside them."""
    made = detection.collector(("car",), Evaluation(task="detection", operating_confidence=0.5))
    boxes = np.array([[40.0 * n, 0.0, 40.0 * n + 30, 30.0] for n in range(len(scores) + 1)])
    kept = [n for n, score in enumerate(scores) if score > 0]
    own = np.concatenate([boxes[kept], boxes[-1:] + 500])
    found = Detection(
        own.astype(np.float32), np.array([*(scores[n] for n in kept), 0.4], np.float32),
        np.zeros(len(own), np.int64), ("car",),
    )  # fmt: skip
    count = len(scores)
    made.add(found, Boxes(boxes[:-1], np.zeros(count, np.int64), np.zeros(count, np.bool_), np.full(count, 900.0)))
    return made.records()


def test_precision_over_recall_has_map50_as_its_mean() -> None:
    records = detected([0.9, 0.8, 0.3, 0.0])
    curve = precision_recall(records)
    assert curve.shape == RECALL_LEVELS.shape
    assert curve.mean() == pytest.approx(detection.summarize(records).metrics["map50"])
    assert curve[50] == 1.0 and curve[75] == pytest.approx(0.75) and curve[76] == 0.0


def test_shared_mistakes_of_objects_count_at_the_operating_confidence() -> None:
    assert shared(detected([0.9, 0.8, 0.3, 0.0]), detected([0.9, 0.2, 0.7, 0.0])) == Shared("objects", 1, 1, 1, 1)
    found = reliability(detected([0.9, 0.8, 0.3, 0.0]))
    assert found is not None and sum(count for _, _, count in found.bins) == 4
