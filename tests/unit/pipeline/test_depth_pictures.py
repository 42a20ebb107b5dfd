"""Depth of an image as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeship.decode.predictions import Depth
from edgeship.pipeline.changes import Pictures
from edgeship.pipeline.depth_pictures import changed_depth, scaled
from edgeship.results import Answer, ChangedImage

SHOWN = ChangedImage(
    picture=None,
    size=(3, 2),
    name="a.png",
    label="",
    candidate="int8",
    reference=Answer(text=""),
    answer=Answer(text=""),
)


def test_a_scale_has_its_ends_and_a_place_for_nothing() -> None:
    values = np.array([1.0, 2.0, 3.0, 9.0, np.nan])
    assert scaled(values, 1.0, 3.0, np.isfinite(values)).tolist() == [1, 128, 255, 255, 0]


def test_what_was_measured_found_and_missed(tmp_path: Path) -> None:
    measured = np.array([[2.0, 4.0, 0.0], [2.0, 4.0, 4.0]])
    close = Depth(np.array([[2.0, 4.0, 7.0], [2.0, 4.0, np.nan]], np.float32))
    far = Depth(np.array([[3.0, 4.0, 7.0], [2.0, 9.0, np.nan]], np.float32))
    found = changed_depth(SHOWN, close, far, measured, Pictures(tmp_path))
    assert (found.harm, found.label) == ("worse", "2 to 4 m")
    assert found.reference.text == "relative error 0.0%, 100.0% within a factor of 1.25"
    assert found.answer.text == "relative error 43.8%, 50.0% within a factor of 1.25"
    kept = [found.measured, found.answer.depth, found.answer.error]
    maps = [np.asarray(Image.open(tmp_path / item.path)).tolist() for item in kept if item is not None]
    assert maps == [
        [[1, 255, 0], [1, 255, 255]],
        [[128, 255, 255], [1, 255, 0]],
        [[255, 1, 0], [1, 255, 0]],
    ]
    assert changed_depth(SHOWN, far, close, measured, Pictures(tmp_path)).harm == "better"
    assert changed_depth(SHOWN, far, far, 0 * measured, Pictures(tmp_path)).harm == "other"


@pytest.mark.parametrize("metres", [np.nan, 5.0])
def test_an_image_without_a_measured_pixel_has_pictures(tmp_path: Path, metres: float) -> None:
    answer = Depth(np.full((2, 3), metres, np.float32))
    found = changed_depth(SHOWN, answer, answer, np.zeros((2, 3)), Pictures(tmp_path))
    assert (found.label, found.answer.text) == ("no depth", "no measured pixel that the model saw")
