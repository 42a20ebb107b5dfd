"""Agreement, score shift and change between two evaluations of the same images."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Classification, Detection, Segmentation
from edgeship.errors import DataError
from edgeship.metrics import classification, detection, paired, segmentation

CLASSES = ("person", "car")
NOTHING = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))


def classified(*rows):
    collector = classification.collector(CLASSES, Evaluation())
    for row in rows:
        collector.add(Classification(np.array(row, np.float32), CLASSES), 0)
    return collector.records()


def detected(*images):
    collector = detection.collector(CLASSES, Evaluation(operating_confidence=0.5))
    for rows in images:
        boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
        scores = np.array([row[4] for row in rows], np.float32)
        labels = np.array([row[5] for row in rows], np.int64)
        collector.add(Detection(boxes, scores, labels, CLASSES), NOTHING)
    return collector.records()


def test_classification():
    reference = classified([0.9, 0.1], [0.2, 0.8], [0.6, 0.4])
    candidate = classified([0.7, 0.3], [0.2, 0.8], [0.4, 0.6])
    assert paired.agreement(reference, candidate) == pytest.approx(2 / 3)
    assert paired.score_shift(reference, candidate) == pytest.approx(-0.1)
    assert np.argsort(paired.change(reference, candidate)).tolist() == [1, 0, 2]
    assert paired.score_shift(classified([0.9, 0.1]), classified([0.1, 0.9])) is None


def test_detection():
    near, far = (10, 10, 50, 50), (12, 11, 51, 52)
    reference = detected([(*near, 0.9, 0), (200, 200, 220, 220, 0.8, 1)], [], [(*near, 0.3, 0)])
    candidate = detected([(*far, 0.7, 0), (200, 200, 220, 220, 0.4, 1)], [(*near, 0.9, 0)], [])
    # At 0.5 the reference has 2 boxes, the candidate 2; one is the same.
    assert paired.agreement(reference, candidate) == pytest.approx(2 / 4)
    assert paired.score_shift(reference, candidate) == pytest.approx((-0.2 - 0.4) / 2)
    assert paired.change(reference, candidate) == pytest.approx([1 / 3, 1.0, 0.0])
    assert paired.agreement(reference, reference) == 1.0
    assert paired.agreement(detected([]), detected([])) == 1.0


def test_boxes_of_another_class_do_not_agree():
    assert paired.agreement(detected([(1, 1, 9, 9, 0.9, 0)]), detected([(1, 1, 9, 9, 0.9, 1)])) == 0.0


def test_one_box_answers_for_one_box_only():
    two = detected([(10, 10, 50, 50, 0.9, 0), (10, 10, 50, 50, 0.8, 0)])
    one = detected([(10, 10, 50, 50, 0.9, 0)])
    assert paired.agreement(two, one) == pytest.approx(2 / 3)


def test_segmentation():
    def records(split):
        mask = np.zeros((128, 128), np.int16)
        mask[split:] = 1
        collector = segmentation.collector(CLASSES, Evaluation(task="segmentation"))
        collector.add(Segmentation(mask, CLASSES), np.zeros((128, 128), np.uint8))
        return collector.records()

    assert paired.agreement(records(64), records(96)) == pytest.approx(0.75)
    assert paired.change(records(64), records(96)) == pytest.approx([0.25])
    assert paired.score_shift(records(64), records(96)) is None


def test_other_images_are_refused():
    reference, candidate = classified([0.9, 0.1]), classified([0.9, 0.1])
    reference |= {"ids": np.array(["a"]), "digests": np.array(["1"])}
    paired.require_same_images(reference, candidate | {"ids": np.array(["a"]), "digests": np.array(["1"])})
    with pytest.raises(DataError, match="different images"):
        paired.require_same_images(reference, candidate | {"ids": np.array(["b"]), "digests": np.array(["1"])})
    with pytest.raises(DataError, match="different image contents"):
        paired.require_same_images(reference, candidate | {"ids": np.array(["a"]), "digests": np.array(["2"])})
    with pytest.raises(DataError, match="different tasks"):
        paired.require_same_images(reference, detected([]))
