"""Rotated boxes: upright ones give what pycocotools gives, turned ones what their IoU by shapely gives."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from edgeship.config import Evaluation
from edgeship.data import quads
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Rotated
from edgeship.errors import DataError
from edgeship.metrics import detection, rotated
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


def devkit_ap(scenes, label):
    """DOTA's ``voc_eval`` on one class, with shapely's polygons: the mean of precision at 11 recall levels."""
    objects = [
        [
            (shapely.Polygon(corners), crowd)
            for corners, k, crowd in zip(t.corners, t.labels, t.crowd, strict=True)
            if k == label
        ]
        for t, _ in scenes
    ]
    rows = [
        (score, image, shapely.Polygon(corners))
        for image, (_, answer) in enumerate(scenes)
        for corners, score, k in zip(answer.corners, answer.scores, answer.labels, strict=True)
        if k == label
    ]
    taken, right, wrong = set(), [0], [0]
    for _, image, polygon in sorted(rows, key=lambda row: -row[0]):
        ious = [polygon.intersection(other).area / polygon.union(other).area for other, _ in objects[image]]
        best = int(np.argmax(ious)) if ious else -1
        hit = bool(ious) and ious[best] > 0.5
        if hit and objects[image][best][1]:
            continue
        first = hit and (image, best) not in taken
        taken |= {(image, best)} if first else set()
        right.append(right[-1] + first)
        wrong.append(wrong[-1] + (not first))
    count = sum(not crowd for group in objects for _, crowd in group)
    recall = np.array(right[1:]) / count
    precision = np.array(right[1:]) / np.maximum(np.array(right[1:]) + np.array(wrong[1:]), np.finfo(np.float64).eps)
    levels = np.arange(0.0, 1.1, 0.1)
    return sum(precision[recall >= level].max(initial=0.0) for level in levels) / len(levels)


def slanted_scenes(count):
    """Crowded quays: objects beside each other, found once, twice, badly or not at all; some are difficult."""
    random = np.random.default_rng(11)
    scenes = []
    for _ in range(count):
        number = random.integers(2, 12)
        centre, size = random.uniform(20, 90, (number, 2)), random.uniform([20, 6], [40, 12], (number, 2))
        angle, labels = random.uniform(-1.5, 1.5, number), random.integers(0, 2, number)
        truth = quads.from_angles(centre, size, angle)
        crowd = random.random(number) < 0.2
        target = Boxes(quads.bounds(truth), labels, crowd, quads.areas(truth), corners=truth)
        again = random.integers(0, number, 2 * number)
        moved = centre[again] + random.normal(0, 1.5, (len(again), 2))
        found = quads.from_angles(moved, size[again], angle[again] + random.normal(0, 0.08, len(again)))
        scores = random.permutation(len(again)).astype(np.float32) / 97 + random.random(1).astype(np.float32)
        box = quads.bounds(found).astype(np.float32)
        scenes.append((target, Rotated(box, scores, labels[again], CLASSES, found)))
    return scenes


def test_dotas_ap_is_that_of_its_development_kit():
    scenes = slanted_scenes(30)
    records = records_of(scenes)
    summary = rotated.summarize(records)
    wanted = [devkit_ap(scenes, label) for label in range(2)]
    assert list(summary.per_class["ap_dota"].values()) == pytest.approx(wanted, abs=1e-12)
    assert summary.metrics["map_dota"] == pytest.approx(np.mean(wanted), abs=1e-12)
    assert abs(summary.metrics["map_dota"] - summary.metrics["map50"]) > 0.001
    weights = np.random.default_rng(0).integers(0, 3, (5, len(scenes)))
    many = rotated.resample(records, weights, ["map_dota", "ap_dota/ship", "map50"])
    for row, weight in enumerate(weights):
        repeated = [scene for scene, times in zip(scenes, weight, strict=True) for _ in range(times)]
        one = rotated.summarize(records, weight)
        assert one.per_class["ap_dota"]["ship"] == pytest.approx(devkit_ap(repeated, 0), abs=1e-12)
        assert many["map_dota"][row] == pytest.approx(one.metrics["map_dota"], abs=1e-5)
        assert many["ap_dota/ship"][row] == pytest.approx(one.per_class["ap_dota"]["ship"], abs=1e-5)


def test_dotas_ap_counts_more_objects_than_cocos_hundred():
    centre = np.stack(np.meshgrid(np.arange(15) * 10.0, np.arange(10) * 10.0), axis=2).reshape(-1, 2)
    corners = quads.from_angles(centre, np.full((150, 2), 8.0), np.full(150, 0.3))
    box, none = quads.bounds(corners), np.zeros(150, dtype=np.int64)
    target = Boxes(box, none, none > 0, quads.areas(corners), corners=corners)
    answer = Rotated(box.astype(np.float32), np.linspace(1, 0.6, 150).astype(np.float32), none, CLASSES, corners)
    metrics = rotated.summarize(records_of([(target, answer)])).metrics
    assert metrics["map_dota"] == pytest.approx(1.0)
    assert metrics["map50"] == pytest.approx(67 / 101, abs=1e-6)
    with pytest.raises(DataError, match="detection has no metric 'map_dota'"):
        detection.resample(
            detection.collector(CLASSES, Evaluation(task="detection")).records(), np.zeros((1, 0)), ["map_dota"]
        )
