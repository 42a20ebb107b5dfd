"""Texts of the pictures in the report."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.metrics.predictions import Detection
from edgeship.pipeline.inferring import boxes_of, counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes")])
def test_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "box", "boxes") == text


def test_boxes_carry_their_class_and_score() -> None:
    found = Detection(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([1]), ("person", "cat")
    )
    (box,) = boxes_of(found)
    assert (box.corners, box.label, box.score) == ((1.0, 2.0, 3.0, 4.0), "cat", 0.5)
