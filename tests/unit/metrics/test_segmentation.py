"""Segmentation metrics against a confusion matrix counted pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.decode.predictions import Segmentation
from edgeship.errors import DataError
from edgeship.metrics import segmentation

CLASSES = ("road", "car", "person", "sky")


def records_of(pairs, ignore=255):
    collector = segmentation.collector(CLASSES, Evaluation(task="segmentation", ignore_index=ignore))
    for predicted, labelled in pairs:
        collector.add(Segmentation(predicted, CLASSES), labelled)
    return collector.records()


@pytest.fixture
def pairs():
    random = np.random.default_rng(0)
    found = []
    for _ in range(6):
        labelled = random.choice([0, 1, 2, 255], (20, 30), p=[0.6, 0.2, 0.1, 0.1]).astype(np.uint8)
        predicted = np.where(random.random((20, 30)) < 0.7, labelled % 255, random.integers(0, 3, (20, 30)))
        found.append((predicted.astype(np.int16), labelled))
    return found


def by_hand(pairs):
    predicted = np.concatenate([p.ravel() for p, _ in pairs])
    labelled = np.concatenate([m.ravel() for _, m in pairs])
    predicted, labelled = predicted[labelled != 255], labelled[labelled != 255]
    iou = {}
    for k, name in enumerate(CLASSES):
        union = ((predicted == k) | (labelled == k)).sum()
        if union:
            iou[name] = ((predicted == k) & (labelled == k)).sum() / union
    return iou, (predicted == labelled).mean()


def test_iou_and_accuracy(pairs):
    iou, accuracy = by_hand(pairs)
    summary = segmentation.summarize(records_of(pairs))
    assert summary.per_class["iou"] == pytest.approx(iou)
    assert summary.metrics["miou"] == pytest.approx(np.mean(list(iou.values())))
    assert summary.metrics["pixel_accuracy"] == pytest.approx(accuracy)
    assert summary.examples == {"road": 6, "car": 6, "person": 6, "sky": 0}


def test_weights_mean_repetition_and_resampling_agrees(pairs):
    records = records_of(pairs)
    weights = np.array([[2, 0, 1, 0, 3, 1], [1, 1, 1, 1, 1, 1]])
    repeated = [pair for pair, times in zip(pairs, weights[0], strict=True) for _ in range(times)]
    expected = segmentation.summarize(records_of(repeated))
    assert segmentation.summarize(records, weights[0]).metrics == pytest.approx(expected.metrics)
    many = segmentation.resample(records, weights, ["miou", "iou/car", "recall/car"])
    assert many["miou"][0] == pytest.approx(expected.metrics["miou"])
    assert many["iou/car"][0] == pytest.approx(expected.per_class["iou"]["car"])
    assert many["recall/car"][0] == pytest.approx(expected.per_class["recall"]["car"])
    assert segmentation.successes(records, "iou", "car") is None


def test_pixels_the_model_never_saw_count_as_missed():
    predicted = np.full((4, 4), -1, np.int16)
    predicted[:2] = 1
    summary = segmentation.summarize(records_of([(predicted, np.ones((4, 4), np.uint8))]))
    assert summary.per_class["iou"]["car"] == 0.5


def test_values_that_are_no_class():
    with pytest.raises(DataError, match=r"(?s)holds the values 9.*ignore_index = 9"):
        records_of([(np.zeros((2, 2), np.int16), np.full((2, 2), 9, np.uint8))], ignore=None)
    with pytest.raises(DataError, match="or 255"):
        records_of([(np.zeros((2, 2), np.int16), np.full((2, 2), 9, np.uint8))])


def test_unknown_metric(pairs):
    with pytest.raises(DataError, match="no metric 'iou/zebra'"):
        segmentation.resample(records_of(pairs), np.ones((1, 6)), ["iou/zebra"])
