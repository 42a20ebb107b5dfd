"""Objects that no two detections contest are matched at once, and as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection
from edgeship.metrics import detection, matching
from edgeship.metrics.objects import ObjectsCollector, Protocol


@pytest.mark.parametrize("seed", range(4))
def test_matching_at_once_is_matching_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    contested = 0
    for _ in range(150):
        detections, objects = (int(random.integers(1, most)) for most in (14, 9))
        overlap = np.round(random.random((detections, objects)) ** random.choice([0.3, 1, 4]), random.choice([1, 2, 6]))
        overlap *= random.random(overlap.shape) < random.choice([0.2, 0.5, 1])
        crowd = random.random(objects) < 0.15
        area = np.exp(random.uniform(2, 10, objects))
        found = matching.match(overlap, crowd, area, crowd | (random.random(objects) < 0.1))
        matched, ignored, finder = matching._match_many(overlap, found.out_of_range, crowd)
        np.testing.assert_array_equal(found.matched, matched)
        np.testing.assert_array_equal(found.ignored, ignored)
        np.testing.assert_array_equal(found.finder, finder)
        contested += bool(((overlap >= 0.5).sum(axis=1) > 1).any())
    assert 30 < contested < 150


@pytest.mark.parametrize("limit", [3, 100])
@pytest.mark.parametrize("devkit", [False, True])
def test_all_pairs_at_once_give_the_records_of_class_by_class(devkit: bool, limit: int) -> None:
    random = np.random.default_rng(1)
    classes = ("a", "b", "c")
    both = [
        ObjectsCollector(
            "detection", classes, Evaluation(task="detection"), Protocol(detection.compare, limit, devkit, quick)
        )
        for quick in (True, False)
    ]
    for _ in range(30):
        count, objects = int(random.integers(0, 40)), int(random.integers(0, 9))
        corner = random.uniform(0, 60, (objects, 2))
        boxes = np.concatenate([corner, corner + random.uniform(8, 50, (objects, 2))], axis=1)
        near = np.repeat(boxes, 6, axis=0)[:count] + random.normal(0, 2, (min(count, 6 * objects), 4))
        found = Detection(
            near.astype(np.float32), np.round(random.random(len(near)), 1).astype(np.float32),
            random.integers(0, 3, len(near)), classes,
        )  # fmt: skip
        truth = Boxes(
            boxes, random.integers(0, 3, objects), random.random(objects) < 0.2, random.uniform(50, 3000, objects)
        )
        for collector in both:
            collector.add(found, truth)
    quick, slow = (collector.records() for collector in both)
    assert quick["det_matched"].any()
    assert quick.keys() == slow.keys()
    for name, values in quick.items():
        np.testing.assert_array_equal(values, slow[name])
