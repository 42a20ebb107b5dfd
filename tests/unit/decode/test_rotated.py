"""Rotated boxes out of a network's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data import quads
from edgeship.data.preprocess import Geometry
from edgeship.decode.decoders import decode_predictions
from edgeship.decode.predictions import Rotated
from edgeship.errors import OutputError

CLASSES = ("ship", "plane")
# A 128x64 image letterboxed into 64x64: scale 0.5, 16 rows of padding above.
LETTERBOX = Geometry(64, 128, 64, 64, 0.5, 0.5, 0.0, 16.0)


def decoded(head):
    settings = Evaluation(task="rotated", score_threshold=0.25)
    (found,) = decode_predictions("rotated", None, {"output0": head}, [LETTERBOX], settings, CLASSES)
    assert isinstance(found, Rotated)
    return found


def head(angle):
    values = np.zeros((1, 7, 40), np.float32)
    values[0, :, 3] = [24, 32, 20, 4, 0.1, 0.9, angle]
    values[0, :, 4] = [24, 32, 20, 4, 0.1, 0.6, angle + 0.02]
    values[0, :, 5] = [24, 32, 20, 4, 0.1, 0.5, angle + 1.5]
    return values


def test_corners_go_back_to_the_image_and_near_copies_are_suppressed():
    found = decoded(head(0.5))
    assert found.names == ["plane", "plane"]
    wanted = quads.from_angles(np.array([[48.0, 32]]), np.array([[40.0, 8]]), np.array([0.5]))
    assert np.allclose(found.corners[0], wanted[0], atol=1e-5)
    assert np.allclose(found.boxes[0], quads.bounds(wanted)[0], atol=1e-4)
    assert found.above(0.8).corners.shape == (1, 4, 2)


def test_degrees_are_refused():
    with pytest.raises(OutputError, match="the model gives the angle 46"):
        decoded(head(45.0))
