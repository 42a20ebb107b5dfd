"""What would make a reference better."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Preprocess
from edgeship.decide.diagnosis import better_order, better_preprocessing, preprocessings
from made_trials import records


def reordered(order):
    arrays = records({"car": 20, "pedestrian": 10, "cyclist": 30})
    return {**arrays, "top": np.array(order, dtype=np.int32)[arrays["top"]]}


def test_two_classes_that_are_swapped_are_named():
    assert better_order(reordered([0, 2, 1])) == (
        "with the classes 'pedestrian' and 'cyclist' swapped the reference's top1 is 0.9500 instead of 0.3250"
    )


def test_another_order_of_all_classes_is_told():
    assert better_order(reordered([1, 2, 0])).startswith(
        "in another order of the classes ('car' answered as 'pedestrian', 'pedestrian' answered as 'cyclist'"
    )


def test_the_right_order_needs_no_advice():
    assert better_order(reordered([0, 1, 2])) == ""


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (Preprocess(), {'color = "bgr"', "scale = 255", "scale = 0.00392157"}),
        (Preprocess(scale=1 / 255, mean=(0.4,), std=(0.2,)), {"no mean and std", "scale = 1", 'color = "bgr"'}),
        (Preprocess(color="gray"), {"scale = 255", "scale = 0.00392157"}),
    ],
)
def test_what_models_are_often_trained_with_is_tried(own, words):
    found = preprocessings(own)
    assert words <= set(found)
    assert all(item != own for item in found.values())
    assert (own.color == "gray") == all("color" not in word for word in found)


def test_only_a_clearly_better_preprocessing_is_named():
    assert better_preprocessing("top1", 0.1, {"a": 0.91, "b": 0.3}) == (
        "with a the reference's top1 is 0.9100 instead of 0.1000"
    )
    assert better_preprocessing("top1", 0.88, {"a": 0.91}) == better_preprocessing("top1", 0.1, {}) == ""
