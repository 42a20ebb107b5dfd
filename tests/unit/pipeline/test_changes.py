"""Texts of the pictures in the report."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.decode.predictions import Detection, Segmentation
from edgeship.pipeline.changes import boxes_of, counted, pixel_accuracy


@pytest.mark.parametrize(("number", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes")])
def test_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "box", "boxes") == text


def test_boxes_carry_their_class_and_score() -> None:
    found = Detection(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([1]), ("person", "cat")
    )
    (box,) = boxes_of(found)
    assert (box.corners, box.label, box.score) == ((1.0, 2.0, 3.0, 4.0), "cat", 0.5)


@pytest.mark.parametrize(("ignored", "share"), [(255, 2 / 4), (2, 2 / 4), (None, 2 / 6)])
def test_pixels_without_a_label_are_no_errors_and_unseen_ones_are(ignored: int | None, share: float) -> None:
    fill = ignored if ignored is not None else 2
    truth = np.array([[0, 1, 1, 1, fill, fill]], np.uint8)
    answer = Segmentation(np.array([[0, 1, -1, 0, 0, 1]], np.int16), ("road", "lane", "rail"))
    assert pixel_accuracy(answer, truth, ignored) == pytest.approx(share)


def test_no_labelled_pixel_is_no_accuracy() -> None:
    answer = Segmentation(np.zeros((2, 2), np.int16), ("road",))
    assert pixel_accuracy(answer, np.full((2, 2), 255), 255) == 0
