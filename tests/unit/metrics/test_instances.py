"""Instance masks: equal to pycocotools' segm on random masks, through polygons, run lengths and crowds."""

from __future__ import annotations

import contextlib
import io

import faster_coco_eval
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.data.regions import from_shape, region, to_runs
from edgeship.decode.predictions import Instances
from edgeship.errors import DataError
from edgeship.metrics import instances, losses

CLASSES = ("person", "car")
HEIGHT, WIDTH = 150, 170
STATS = ["map", "map50", "map75", "map_small", "map_medium", "map_large"]
STATS += ["ar1", "ar10", "ar", "ar_small", "ar_medium", "ar_large"]


def blob(random, centre=None, size=None):
    """A polygon around a centre, in the image or over its edge."""
    centre = random.uniform(10, 140, 2) if centre is None else centre
    size = np.exp(random.uniform(np.log(6), np.log(90))) if size is None else size
    angle = np.sort(random.uniform(0, 2 * np.pi, random.integers(4, 9)))
    radius = size * random.uniform(0.6, 1.0, len(angle))
    return centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]


def scene(random):
    """Objects as polygons or run lengths and detections of one image; some images are empty of either."""
    count, number = (0 if random.random() < 0.15 else random.integers(1, most) for most in (6, 14))
    outlines = [blob(random) for _ in range(count)]
    labels, crowd = random.integers(0, 2, count), random.random(count) < 0.15
    masks = [from_shape([line], HEIGHT, WIDTH) for line in outlines]
    shapes = tuple(
        {"size": [HEIGHT, WIDTH], "counts": to_runs(mask, HEIGHT, WIDTH)} if lone else [line]
        for line, mask, lone in zip(outlines, masks, crowd, strict=True)
    )
    area = np.array([mask.area for mask in masks], dtype=np.float64)
    truth = Boxes(np.zeros((count, 4)), labels, crowd, area, shapes=shapes)
    found, kinds = [], []
    for _ in range(number):
        if count and random.random() < 0.75:
            which = random.integers(0, count)
            moved = outlines[which] + random.normal(0, 1.5, outlines[which].shape)
            kinds.append(labels[which] if random.random() < 0.9 else random.integers(0, 2))
        else:
            moved = blob(random)
            kinds.append(random.integers(0, 2))
        found.append(from_shape([moved], HEIGHT, WIDTH))
    scores = np.round(random.random(number), 2).astype(np.float32)
    boxes = np.zeros((number, 4), np.float32)
    answer = Instances(boxes, scores, np.array(kinds, np.int64), CLASSES, tuple(found), HEIGHT, WIDTH)
    return truth, answer


def judged(scenes, truth_of=COCO, judge_of=COCOeval):
    annotations, results = [], []
    for image, (truth, answer) in enumerate(scenes):
        for shape, label, crowd, area in zip(truth.shapes, truth.labels, truth.crowd, truth.area, strict=True):
            form = shape if isinstance(shape, dict) else [line.ravel().tolist() for line in shape]
            item = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "bbox": [0, 0, 1, 1]}
            annotations.append(item | {"segmentation": form, "iscrowd": int(crowd), "area": float(area)})
        for one, label, score in zip(answer.regions, answer.labels, answer.scores, strict=True):
            runs = coco_mask.encode(np.asfortranarray(one.whole(HEIGHT, WIDTH).astype(np.uint8)))
            item = {"image_id": image, "category_id": int(label), "score": float(score), "segmentation": runs}
            results.append(item)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = truth_of()
        truth.dataset = {
            "info": {},
            "images": [{"id": image, "height": HEIGHT, "width": WIDTH} for image in range(len(scenes))],
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        judge = judge_of(truth, truth.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def records_of(scenes):
    collector = instances.collector(CLASSES, Evaluation(task="instances"))
    for truth, answer in scenes:
        collector.add(answer, truth)
    return collector.records()


@pytest.mark.parametrize("seed", range(2))
def test_equal_to_pycocotools(seed):
    random = np.random.default_rng(seed)
    scenes = [scene(random) for _ in range(25)]
    judge = judged(scenes)
    records = records_of(scenes)
    summary = instances.summarize(records)
    for name, wanted in zip(STATS, judge.stats, strict=True):
        assert summary.metrics.get(name, -1.0) == pytest.approx(wanted, abs=1e-9), name
    for number, name in enumerate(CLASSES):
        precision = judge.eval["precision"][:, :, number, 0, 2]
        assert summary.per_class["ap"][name] == pytest.approx(precision.mean(), abs=1e-9)
    faster = judged(scenes, faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
    assert [summary.metrics.get(name, -1.0) for name in STATS] == pytest.approx(list(faster.stats[:12]), abs=1e-9)
    once = instances.resample(records, np.ones((1, len(scenes))), ["map", "ap/car", "recall"])
    assert once["map"][0] == pytest.approx(summary.metrics["map"], abs=2e-3)
    assert once["recall"][0] == pytest.approx(summary.metrics["recall"])


def test_a_box_that_fits_is_not_enough():
    stripe = np.zeros((20, 20), bool)
    stripe[:, :10] = True
    truth = Boxes(np.array([[0.0, 0, 20, 20]]), np.array([0]), np.zeros(1, bool), np.array([400.0]))
    truth = Boxes(truth.boxes, truth.labels, truth.crowd, truth.area, shapes=(region(np.ones((20, 20), bool)),))
    half = Instances(
        np.array([[0, 0, 20, 20]], np.float32),
        np.ones(1, np.float32),
        np.array([0]),
        CLASSES,
        (region(stripe),),
        20,
        20,
    )
    found = instances.summarize(records_of([(truth, half)])).metrics
    assert found["map50"] == pytest.approx(1.0)  # an IoU of exactly one half
    assert found["map75"] == 0.0
    nothing = Instances(half.boxes[:0], half.scores[:0], half.labels[:0], CLASSES, (), 20, 20)
    assert losses.missed(records_of([(truth, half), (truth, nothing)]), "map").tolist() == [0.0, 1.0]


def test_objects_without_an_outline_are_refused():
    truth = Boxes(np.array([[0.0, 0, 9, 9]]), np.array([0]), np.zeros(1, bool), np.array([81.0]), shapes=(None,))
    nothing = Instances(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), CLASSES, (), 9, 9)
    with pytest.raises(DataError, match="an object has no outline"):
        records_of([(truth, nothing)])
