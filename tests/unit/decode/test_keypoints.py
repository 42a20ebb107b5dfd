"""Decoders of keypoints: points planted in each head's own layout come back at their place."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data.preprocess import Geometry
from edgeship.decode.decoders import decode_predictions
from edgeship.decode.predictions import Poses
from edgeship.errors import OutputError

CLASSES = ("person", "dog")
# A 128x64 image letterboxed into 64x64: scale 0.5, 16 rows of padding above.
LETTERBOX = Geometry(64, 128, 64, 64, 0.5, 0.5, 0.0, 16.0)
POINTS = [[10.0, 20.0, 0.9], [30.0, 40.0, 0.2]]
PLACED = [[20.0, 8.0], [60.0, 48.0]]


def decoded(outputs):
    settings = Evaluation(task="keypoints", score_threshold=0.25)
    (found,) = decode_predictions("keypoints", None, outputs, [LETTERBOX], settings, CLASSES)
    assert isinstance(found, Poses)
    return found


@pytest.mark.parametrize("each", [3, 2])
@pytest.mark.parametrize("ended", [False, True])
def test_points_go_back_to_the_image(each, ended):
    flat = [value for point in POINTS for value in point[:each]]
    if ended:
        head = np.zeros((1, 20, 6 + len(flat)), np.float32)
        head[0, 4] = [8, 16, 40, 48, 0.9, 1, *flat]
    else:
        head = np.zeros((1, 6 + len(flat), 40), np.float32)
        head[0, :, 4] = [24, 32, 32, 32, 0.1, 0.9, *flat]
        head[0, :, 5] = [24.5, 32, 32, 32, 0.1, 0.6, *flat]
    found = decoded({"output0": head})
    assert found.names == ["dog"]
    assert found.boxes.tolist() == [[16, 0, 80, 64]]
    assert found.points[0, :, :2].tolist() == PLACED
    assert found.points[0, :, 2].tolist() == pytest.approx([0.9, 0.2] if each == 3 else [1.0, 1.0])
    assert found.above(0.95).points.shape == (0, 2, 3)


@pytest.mark.parametrize("shape", [(1, 56 + 1, 84), (1, 300, 57)])
def test_a_frame_without_a_person_has_no_points(shape):
    found = decoded({"output0": np.zeros(shape, np.float32)})
    assert len(found.boxes) == len(found.points) == 0


def test_twelve_points_of_two_numbers_are_told_by_the_config():
    head = np.zeros((1, 6 + 24, 40), np.float32)
    head[0, :6, 4] = [24, 32, 32, 32, 0.1, 0.9]
    settings = Evaluation(task="keypoints", score_threshold=0.25, kpt_shape=(12, 2))
    (found,) = decode_predictions("keypoints", None, {"output0": head}, [LETTERBOX], settings, CLASSES)
    assert found.points.shape == (1, 12, 3)


def test_a_head_of_boxes_alone_is_refused():
    with pytest.raises(OutputError, match="no decoder is set for the outputs"):
        decoded({"output0": np.zeros((1, 6, 40), np.float32)})
