"""Random detection scenes, and pycocotools as the oracle for them."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection
from edgeship.metrics import detection


def scene(random, classes, *, objects=6, detections=20, crowds=0.1, empty=0.15, whole=False):
    """Objects and detections of one image: some near objects, some anywhere; some images empty of either."""
    count = 0 if random.random() < empty else random.integers(1, objects + 1)
    corner = random.uniform(0, 400, (count, 2))
    side = np.exp(random.uniform(np.log(6), np.log(220), (count, 2)))
    boxes = np.concatenate([corner, corner + side], axis=1)
    if whole:
        boxes = np.round(boxes)
    labels = random.integers(0, len(classes), count)
    truth = Boxes(
        boxes=boxes,
        labels=labels,
        crowd=random.random(count) < crowds,
        area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * random.uniform(0.5, 1.0, count),
    )
    number = 0 if random.random() < empty else random.integers(1, detections + 1)
    found, kinds = [], []
    for _ in range(number):
        if count and random.random() < 0.7:
            which = random.integers(0, count)
            found.append(boxes[which] + random.normal(0, 0.06, 4) * np.tile(side[which], 2))
            kinds.append(labels[which] if random.random() < 0.9 else random.integers(0, len(classes)))
        else:
            start = random.uniform(0, 400, 2)
            found.append(np.concatenate([start, start + random.uniform(4, 200, 2)]))
            kinds.append(random.integers(0, len(classes)))
    made = np.array(found, dtype=np.float32).reshape(-1, 4)
    made[:, 2:] = np.maximum(made[:, 2:], made[:, :2] + 1)
    scores = np.round(random.random(number), 2 if whole else 6).astype(np.float32)
    return truth, Detection(np.round(made) if whole else made, scores, np.array(kinds, dtype=np.int64), classes)


def records_of(scenes, classes, **settings):
    """Records of (truth, prediction) pairs."""
    collector = detection.collector(classes, Evaluation(task="detection", **settings))
    for truth, prediction in scenes:
        collector.add(prediction, truth)
    return collector.records()


def pycocotools_stats(scenes, classes):
    """COCOeval's accumulated result on the same scenes."""
    annotations, results = [], []
    for image, (truth, prediction) in enumerate(scenes):
        for box, label, crowd, area in zip(truth.boxes, truth.labels, truth.crowd, truth.area, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "iscrowd": int(crowd),
                    "area": float(area),
                }
            )
        for box, label, score in zip(prediction.boxes, prediction.labels, prediction.scores, strict=True):
            x1, y1, x2, y2 = (float(value) for value in box)
            results.append(
                {
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(scenes))],
            "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge
