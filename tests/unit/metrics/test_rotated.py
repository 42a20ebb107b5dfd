"""Rotated boxes: upright ones give what pycocotools gives, turned ones what their IoU by shapely gives."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data import quads
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Rotated
from edgeship.errors import DataError
from edgeship.metrics import rotated
from unit.metrics.scenes import pycocotools_stats, scene

CLASSES = ("ship", "plane")


def records_of(pairs):
    collector = rotated.collector(CLASSES, Evaluation(task="rotated"))
    for truth, answer in pairs:
        collector.add(answer, truth)
    return collector.records()


def corners_of(boxes):
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([np.stack([x1, x2, x2, x1], axis=1), np.stack([y1, y1, y2, y2], axis=1)], axis=2)


def turned(corners, angle):
    """Corners after a turn of everything about one point: no IoU changes."""
    cos, sin = np.cos(angle), np.sin(angle)
    return (corners - 200) @ np.array([[cos, sin], [-sin, cos]]) + 200


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_equal_to_pycocotools_whatever_way_the_scene_is_turned(angle):
    random = np.random.default_rng(4)
    scenes = [scene(random, CLASSES, crowds=0.0) for _ in range(25)]
    pairs = []
    for truth, found in scenes:
        turned_truth = turned(corners_of(truth.boxes), angle)
        answer = Rotated(found.boxes, found.scores, found.labels, CLASSES, turned(corners_of(found.boxes), angle))
        pairs.append((Boxes(truth.boxes, truth.labels, truth.crowd, truth.area, corners=turned_truth), answer))
    summary = rotated.summarize(records_of(pairs)).metrics
    wanted = pycocotools_stats(scenes, CLASSES).stats
    for name, value in zip(("map", "map50", "map75"), wanted[:3], strict=True):
        assert summary[name] == pytest.approx(value, abs=1e-6)


def test_a_box_at_another_angle_is_another_box():
    truth = quads.from_angles(np.array([[50.0, 50]]), np.array([[40.0, 4]]), np.array([0.6]))
    wrong = quads.from_angles(np.array([[50.0, 50]]), np.array([[40.0, 4]]), np.array([-0.6]))
    target = Boxes(quads.bounds(truth), np.array([0]), np.zeros(1, bool), np.array([160.0]), corners=truth)
    values = []
    for corners in (truth, wrong):
        box = quads.bounds(corners).astype(np.float32)
        answer = Rotated(box, np.ones(1, np.float32), np.array([0]), CLASSES, corners)
        values.append(rotated.summarize(records_of([(target, answer)])).metrics["map50"])
    assert values == [pytest.approx(1.0), 0.0]


def test_corners_that_cross_and_objects_without_any_are_refused():
    crossed = np.array([[[0.0, 0], [4, 4], [4, 0], [0, 4]]])
    nothing = Rotated(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), CLASSES)
    given = np.array([[0.0, 0, 4, 4]]), np.array([0]), np.zeros(1, bool), np.array([16.0])
    with pytest.raises(DataError, match="an object has the corners"):
        records_of([(Boxes(*given, corners=crossed), nothing)])
    with pytest.raises(DataError, match="its objects have no corners"):
        records_of([(Boxes(*given), nothing)])
