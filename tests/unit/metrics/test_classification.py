"""Classification metrics and their weights."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship import metrics
from edgeship.config import Evaluation
from edgeship.decode.predictions import Classification, Raw
from edgeship.errors import DataError, UserInputError
from edgeship.metrics import classification

CLASSES = ("a", "b", "c", "d", "e", "f")


def records_of(labels, scores):
    collector = classification.collector(CLASSES, Evaluation())
    for label, row in zip(labels, scores, strict=True):
        collector.add(Classification(row, CLASSES), label)
    return collector.records()


@pytest.fixture
def drawn():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 200)  # class f never occurs
    scores = random.random((200, 6)).astype(np.float32)
    scores[np.arange(200), labels] += 0.4
    return labels, scores


def test_top1_top5_and_recall(drawn):
    labels, scores = drawn
    order = np.argsort(-scores, axis=1)
    summary = classification.summarize(records_of(labels, scores))
    assert summary.metrics["top1"] == pytest.approx((order[:, 0] == labels).mean())
    assert summary.metrics["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(axis=1).mean())
    recall = {CLASSES[k]: (order[labels == k, 0] == k).mean() for k in range(5)}
    assert summary.per_class["recall"] == pytest.approx(recall)
    assert summary.metrics["recall"] == pytest.approx(np.mean(list(recall.values())))
    assert summary.examples == {CLASSES[k]: int((labels == k).sum()) for k in range(6)}


def test_weights_mean_repetition_and_resampling_agrees(drawn):
    labels, scores = drawn
    records = records_of(labels, scores)
    weights = np.random.default_rng(1).integers(0, 3, (4, 200))
    names = ["top1", "top5", "recall", "recall/b"]
    many = classification.resample(records, weights, names)
    for row, weight in enumerate(weights):
        one = classification.summarize(records, weight)
        again = classification.summarize(records_of(np.repeat(labels, weight), np.repeat(scores, weight, axis=0)))
        assert one.metrics == pytest.approx(again.metrics)
        assert [many[name][row] for name in names[:3]] == pytest.approx([one.metrics[name] for name in names[:3]])
        assert many["recall/b"][row] == pytest.approx(one.per_class["recall"]["b"])


def test_successes_pair_one_to_one(drawn):
    labels, scores = drawn
    records = records_of(labels, scores)
    mask, success = classification.successes(records, "recall", "c")
    assert mask.sum() == (labels == 2).sum()
    assert (mask & success).sum() / mask.sum() == pytest.approx(
        classification.summarize(records).per_class["recall"]["c"]
    )
    assert classification.successes(records, "recall", "zebra") is None
    assert classification.successes(records, "map", None) is None


def test_unknown_metrics_and_tasks(drawn):
    with pytest.raises(DataError, match="no metric 'map'"):
        classification.resample(records_of(*drawn), np.ones((1, 200)), ["map"])
    with pytest.raises(UserInputError, match=r"'detektion' \(did you mean 'detection'\?\)"):
        metrics.get("detektion")


def test_a_task_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_task.py").write_text(
        "def error(outputs, target):\n    return {'closeness': -abs(float(outputs['y'][0]) - target)}\n"
    )
    monkeypatch.chdir(tmp_path)
    task = metrics.get("own_task:error")
    collector = task.collector((), Evaluation(task="own_task:error"))
    for value, target in ((1.0, 1.0), (2.0, 5.0)):
        collector.add(Raw({"y": np.array([value])}), target)
    records = collector.records()
    assert task.summarize(records).metrics == {"closeness": -1.5}
    assert task.resample(records, np.array([[2, 0], [0, 1]]), ["closeness"])["closeness"].tolist() == [0.0, -3.0]
