"""Keypoints: equal to pycocotools' keypoints on random poses, with unlabelled objects, crowds and other sigmas."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Poses
from edgeship.errors import DataError
from edgeship.metrics import keypoints

CLASSES = ("person", "dog")
STATS = ["map", "map50", "map75", "map_medium", "map_large", "ar", "", "", "ar_medium", "ar_large"]


def scene(random, joints):
    """Objects with labelled, hidden and absent points, and detections of one image; some images are empty of either."""
    count, number = (0 if random.random() < 0.15 else int(random.integers(1, most)) for most in (6, 26))
    corner, side = random.uniform(0, 200, (count, 2)), np.exp(random.uniform(np.log(20), np.log(200), (count, 2)))
    place = corner[:, None] + random.random((count, joints, 2)) * side[:, None]
    seen = random.choice([0, 1, 2], (count, joints), p=[0.3, 0.2, 0.5])
    seen[random.random(count) < 0.15] = 0
    truth = np.concatenate([np.where(seen[..., None] > 0, place, 0.0), seen[..., None]], axis=2)
    objects = Boxes(
        np.concatenate([corner, corner + side], axis=1),
        random.integers(0, 2, count),
        random.random(count) < 0.1,
        side.prod(axis=1) * random.uniform(0.4, 0.9, count),
        keypoints=truth,
    )
    found, kinds = [], []
    for _ in range(number):
        which = int(random.integers(0, count)) if count and random.random() < 0.8 else None
        if which is None:
            found.append(random.uniform(0, 300, (joints, 2)))
            kinds.append(int(random.integers(0, 2)))
        else:
            found.append(place[which] + random.normal(0, 0.06, (joints, 2)) * side[which])
            kinds.append(int(objects.labels[which]) if random.random() < 0.9 else int(random.integers(0, 2)))
    points = np.array(found, np.float32).reshape(number, joints, 2)
    points = np.concatenate([points, np.ones((number, joints, 1), np.float32)], axis=2)
    scores = np.round(random.random(number), 2).astype(np.float32)
    return objects, Poses(np.zeros((number, 4), np.float32), scores, np.array(kinds, np.int64), CLASSES, points)


def judged(scenes, sigmas):
    annotations, results = [], []
    for image, (truth, answer) in enumerate(scenes):
        for box, label, crowd, area, points in zip(
            truth.boxes, truth.labels, truth.crowd, truth.area, truth.keypoints, strict=True
        ):
            item = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "iscrowd": int(crowd)}
            item |= {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(area)}
            item |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
            annotations.append(item)
        for label, score, points in zip(answer.labels, answer.scores, answer.points, strict=True):
            flat = points.astype(np.float64).ravel().tolist()
            results.append({"image_id": image, "category_id": int(label), "score": float(score), "keypoints": flat})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(scenes))],
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "keypoints")
        judge.params.kpt_oks_sigmas = np.array(sigmas)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def records_of(scenes, **given):
    collector = keypoints.collector(CLASSES, Evaluation(task="keypoints", **given))
    for truth, answer in scenes:
        collector.add(answer, truth)
    return collector.records()


@pytest.mark.parametrize(
    ("joints", "given", "sigmas"),
    [
        (17, {}, keypoints.SIGMAS),
        (5, {}, [0.2] * 5),
        (3, {"keypoint_sigmas": [0.05, 0.1, 0.02]}, [0.05, 0.1, 0.02]),
    ],
)
def test_equal_to_pycocotools(joints, given, sigmas):
    random = np.random.default_rng(joints)
    scenes = [scene(random, joints) for _ in range(40)]
    judge = judged(scenes, sigmas)
    records = records_of(scenes, **given)
    summary = keypoints.summarize(records)
    for name, wanted in zip(STATS, judge.stats, strict=True):
        if name:
            assert summary.metrics[name] == pytest.approx(wanted, abs=1e-9), name
    for number, name in enumerate(CLASSES):
        precision = judge.eval["precision"][:, :, number, 0, 0]
        assert summary.per_class["ap"][name] == pytest.approx(precision.mean(), abs=1e-9)
    once = keypoints.resample(records, np.ones((1, len(scenes))), ["map", "ap/dog"])
    assert once["map"][0] == pytest.approx(summary.metrics["map"], abs=2e-3)


def one(joints, answers=None):
    truth = Boxes(np.array([[0.0, 0, 9, 9]]), np.array([0]), np.zeros(1, bool), np.array([81.0]))
    points = np.full((1, joints, 3), 2.0)
    truth = Boxes(truth.boxes, truth.labels, truth.crowd, truth.area, keypoints=points if joints else None)
    found = np.zeros((1, joints if answers is None else answers, 3), np.float32)
    return truth, Poses(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([0]), CLASSES, found)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="its objects have 4 keypoints, the model gives 3"):
        records_of([one(4, 3)])
    with pytest.raises(DataError, match="its objects have boxes alone"):
        records_of([one(0)])
    with pytest.raises(DataError, match="keypoint_sigmas has 2 numbers, objects have 4 keypoints"):
        records_of([one(4)], keypoint_sigmas=[0.1, 0.1])
