"""Tasks of one's own: what a function may return, metrics of the corpus, direction, and whose error it is."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship import metrics
from edgeship.config import Evaluation, Gate
from edgeship.data.preprocess import Geometry
from edgeship.decide.drops import Reference, measure
from edgeship.decide.limits import unknown_class_metric
from edgeship.decode.decoders import decode_predictions
from edgeship.decode.predictions import Raw
from edgeship.errors import DataError
from edgeship.metrics import losses, values

GEOMETRY = Geometry(10, 10, 5, 5, 0.5, 0.5)
CODE = """
import numpy as np

def mean(outputs, target):
    return {"psnr": outputs["y"][0]}

def pairs(outputs, target, geometry):
    assert geometry.width == 10
    wrong, whole = target
    return {"cer": (wrong, whole), "by": {"a" if whole < 5 else "b": (wrong, whole)}}

pairs.lower_is_better = ("cer", "by")

def one(outputs, target):
    outputs["y"][:] = 0
    return {"cer": target}

one.lower_is_better = "cer"

class Recall:
    def __call__(self, outputs, target):
        return outputs["y"], target

    def finish(self, kept):
        vectors = np.stack([vector for vector, _ in kept])
        near = ((vectors[:, None] - vectors[None]) ** 2).sum(-1) + np.diag(np.full(len(kept), np.inf))
        return [{"recall1": float(kept[place][1] == kept[k][1])} for k, place in enumerate(near.argmin(axis=1))]

def broken(outputs, target):
    return {"psnr": 1 / target}

def words(outputs, target):
    return target
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def recorded(name, rows):
    collector = metrics.get(f"own_scores:{name}").collector((), Evaluation(task=f"own_scores:{name}"))
    for output, target in rows:
        collector.add(Raw({"y": np.atleast_1d(np.asarray(output, np.float64))}, GEOMETRY), target)
    records = collector.records()
    records["ids"] = records["digests"] = np.array([f"{number}" for number in range(len(rows))])
    return records


def summary(records):
    return metrics.task_of(records).summarize(records)


def test_a_mean_leaves_out_what_is_not_a_number():
    assert summary(recorded("mean", [(1.0, 0), (np.nan, 0), (3.0, 0)])).metrics == {"psnr": 2.0}


def test_pairs_are_summed_over_the_corpus_and_by_class():
    records = recorded("pairs", [(0, (1, 4)), (0, (0, 0)), (0, (3, 16))])
    found = summary(records)
    assert found.metrics == {"cer": 4 / 20}
    assert found.per_class == {"by": {"a": 1 / 4, "b": 3 / 16}}
    assert found.examples == {"a": 1, "b": 1}
    task = metrics.task_of(records)
    assert (task.CLASS_METRIC, task.CLASS_METRICS) == ("by", ("by",))
    drawn = task.resample(records, np.array([[2, 0, 1], [0, 5, 0]]), ["cer", "by/a"])
    assert drawn["cer"][0] == 5 / 24
    assert np.isnan(drawn["cer"][1])


def test_less_is_better_turns_drops_and_losses_round():
    before = recorded("pairs", [(0, (1, 4)), (0, (0, 8)), (0, (0, 8))])
    after = recorded("pairs", [(0, (4, 4)), (0, (0, 8)), (0, (0, 8))])
    assert metrics.lower_is_better(before, "cer")
    assert metrics.lower_is_better(before, "by/a")
    assert losses.lost(before, after, "cer").tolist() == [4.0, 0.0, 0.0]
    assert losses.lost(after, before, "cer").tolist() == [0.0, 0.0, 0.0]
    drop = measure(Reference(before, 0.0, 100), after, ["cer"], frozenset(["cer"]))["cer"]
    assert drop.interval.estimate == pytest.approx(3 / 20)


def test_a_single_metric_may_be_named_by_itself():
    assert metrics.lower_is_better(recorded("one", [(1.0, 0.5)]), "cer")


def test_a_function_may_write_into_its_outputs():
    outputs = {"y": np.ones((1, 2))}
    (mine,) = decode_predictions("own_scores:one", None, outputs, [GEOMETRY], Evaluation(task="own_scores:one"), ())
    metrics.get("own_scores:one").collector((), Evaluation(task="own_scores:one")).add(mine, 0.5)
    assert outputs["y"].tolist() == [[1.0, 1.0]]


def test_a_class_with_finish_scores_the_corpus():
    rows = [([0.0, 0.0], "cat"), ([0.1, 0.0], "cat"), ([5.0, 5.0], "dog"), ([5.0, 5.1], "cat")]
    assert summary(recorded("Recall", rows)).metrics == {"recall1": 0.5}


def test_classes_are_known_when_images_were_scored():
    gate = Gate(critical={"a": 0.1})
    assert unknown_class_metric(gate, metrics.get("own_scores:pairs")) == []
    records = recorded("mean", [(1.0, 0)])
    assert "measures nothing of a class" in unknown_class_metric(gate, metrics.task_of(records))[0]


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("broken", [0], r"raised ZeroDivisionError: division by zero \(.*own_scores\.py:\d+\)"),
        ("words", ["x"], "returned 'x'\nexpected: a dict of numbers"),
        ("words", [{}], "returned"),
        ("words", [{"a": "x"}], "returned a = 'x'"),
        ("words", [{"a": "0.5"}], "returned a = '0.5'"),
        ("words", [{"a": (1, -1)}], "returned a out of -1"),
        ("words", [{"a/b": 1}], "a name without a slash"),
        ("words", [{"a": 1}, {"b": 1}], r"returned \['b'\]\nexpected: \['a'\], as before"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name, targets, message):
    with pytest.raises(DataError, match=message):
        recorded(name, [(1.0, target) for target in targets])


def test_the_worst_value_of_a_number_of_ones_own():
    before, after = recorded("mean", [(30.0, 0), (40.0, 0)]), recorded("mean", [(20.0, 0), (40.0, 0)])
    assert values.worst(before, after, "psnr") == (20.0, 15.0)
    assert values.lost(before, after, "psnr").tolist() == [1.0, 0.0]
