"""Detection metrics: equal to pycocotools, and the same under weights as under repetition."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.data.objects import Boxes
from edgeship.decode.predictions import Detection
from edgeship.metrics import detection
from unit.metrics.scenes import pycocotools_stats, records_of, scene

CLASSES = ("person", "cyclist", "car", "sign")
STATS = ["map", "map50", "map75", "map_small", "map_medium", "map_large"]
STATS += ["ar1", "ar10", "ar", "ar_small", "ar_medium", "ar_large"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("whole", [False, True])
def test_equal_to_pycocotools(seed, whole):
    random = np.random.default_rng(seed)
    crowded = {"objects": 40, "detections": 150} if seed == 5 else {}
    scenes = [scene(random, CLASSES, whole=whole, **crowded) for _ in range(12 if seed == 5 else 40)]
    judge = pycocotools_stats(scenes, CLASSES)
    summary = detection.summarize(records_of(scenes, CLASSES))
    for name, expected in zip(STATS, judge.stats, strict=True):
        assert summary.metrics[name] == pytest.approx(expected, abs=1e-6), name
    precision = judge.eval["precision"][:, :, :, 0, 2]
    for k, name in enumerate(CLASSES):
        assert summary.per_class["ap"][name] == pytest.approx(precision[:, :, k].mean(), abs=1e-6)
    recall = judge.eval["recall"][:, :, 0, 2].mean(axis=0)
    assert [summary.per_class["ar"][name] for name in CLASSES] == pytest.approx(list(recall), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_weights_mean_repetition(seed):
    random = np.random.default_rng(seed)
    scenes = [scene(random, CLASSES) for _ in range(25)]
    weights = random.integers(0, 4, len(scenes))
    repeated = [pair for pair, times in zip(scenes, weights, strict=True) for _ in range(times)]
    weighted = detection.summarize(records_of(scenes, CLASSES), weights)
    expected = detection.summarize(records_of(repeated, CLASSES))
    assert weighted.metrics == pytest.approx(expected.metrics, abs=1e-12)
    assert weighted.examples == expected.examples
    for metric, values in expected.per_class.items():
        assert weighted.per_class[metric] == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_resampling_agrees_with_weighting_one_at_a_time(seed):
    random = np.random.default_rng(seed)
    scenes = [scene(random, CLASSES) for _ in range(60)]
    records = records_of(scenes, CLASSES)
    weights = random.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=7)
    class_names = [f"{metric}/cyclist" for metric in detection.CLASS_METRICS]
    many = detection.resample(records, weights, [*detection.METRICS, *class_names])
    for row, weight in enumerate(weights):
        one = detection.summarize(records, weight)
        for name in detection.METRICS:
            assert many[name][row] == pytest.approx(one.metrics[name], abs=2e-3), name
        for metric in detection.CLASS_METRICS:
            expected = one.per_class[metric].get("cyclist", np.nan)
            assert many[f"{metric}/cyclist"][row] == pytest.approx(expected, abs=5e-3, nan_ok=True), metric


def test_operating_recall_counts_objects_found_at_the_vehicles_confidence():
    box = np.array([[10.0, 10.0, 60.0, 60.0], [100.0, 100.0, 110.0, 110.0]])
    truth = Boxes(box, np.array([0, 0]), np.zeros(2, bool), np.array([2500.0, 100.0]))
    found = Detection(box.astype(np.float32), np.array([0.9, 0.3], np.float32), np.array([0, 0]), CLASSES)
    records = records_of([(truth, found)], CLASSES, operating_confidence=0.5)
    summary = detection.summarize(records)
    assert summary.per_class["recall"] == {"person": 0.5}
    assert summary.metrics["recall_small"] == 0.0
    assert summary.metrics["recall_medium"] == 1.0
    assert summary.metrics["precision"] == 1.0
    mask, success = detection.successes(records, "recall", "person")
    assert mask.tolist() == [True, True]
    assert success.tolist() == [True, False]
    assert detection.groups(records).tolist() == [0, 0]


def test_classes_without_objects_are_absent_and_empty_images_count_nothing():
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0))
    silent = Detection(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), CLASSES)
    summary = detection.summarize(records_of([(nothing, silent)], CLASSES))
    assert summary.metrics == {}
    assert summary.per_class == {}
    assert set(summary.examples.values()) == {0}


def test_resample_gives_nan_where_no_example_is_drawn():
    random = np.random.default_rng(3)
    scenes = [scene(random, CLASSES, empty=0.0, crowds=0.0) for _ in range(3)]
    records = records_of(scenes, CLASSES)
    drawn = detection.resample(records, np.array([[0, 0, 0], [1, 1, 1]]), ["map", "recall"])
    assert np.isnan(drawn["map"][0])
    assert drawn["map"][1] == pytest.approx(detection.summarize(records).metrics["map"], abs=2e-3)


def test_overall_recall_is_the_share_of_successes():
    random = np.random.default_rng(1)
    records = records_of([scene(random, CLASSES) for _ in range(40)], CLASSES)
    summary = detection.summarize(records)
    for metric in ("recall", "recall_small", "recall_medium", "recall_large"):
        mask, success = detection.successes(records, metric, None)
        assert summary.metrics[metric] == pytest.approx(success[mask].mean())
    assert detection.successes(records, "recall", "zebra") is None
    assert detection.successes(records, "map", None) is None
