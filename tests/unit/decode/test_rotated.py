"""Rotated boxes out of a network's outputs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely

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


def text_map(seed, height=80, width=120):
    """Soft words at angles, on noise that stays below the threshold, and specks that are too small."""
    random = np.random.default_rng(seed)
    chart = random.uniform(0, 0.25, (height, width)).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    for centre in ((20, 20), (62, 22), (100, 24), (24, 60), (66, 58), (102, 60)):
        angle, long, wide = random.uniform(-1.2, 1.2), random.uniform(8, 16), random.uniform(2, 5)
        cos, sin = np.cos(angle), np.sin(angle)
        u, v = cos * (x - centre[0]) + sin * (y - centre[1]), -sin * (x - centre[0]) + cos * (y - centre[1])
        word = (np.abs(u) <= long) & (np.abs(v) <= wide)
        chart[word] = random.uniform(0.35, 0.99, (height, width)).astype(np.float32)[word]
    chart[40:42, 2:5] = 0.9
    return chart


def text_reference(chart, threshold, unclip):
    """The same by OpenCV's contours and shapely: polygons in pixels of the map, with their scores."""
    found = []
    contours, _ = cv2.findContours((chart >= threshold).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    y, x = (part.ravel() for part in np.mgrid[: chart.shape[0], : chart.shape[1]])
    for contour in contours:
        box = shapely.MultiPoint(contour[:, 0].astype(np.float64)).minimum_rotated_rectangle
        if box.geom_type != "Polygon" or min(cv2.minAreaRect(contour)[1]) < 3:
            continue
        inside = shapely.intersects_xy(box.buffer(1e-6), x, y)
        grown = box.buffer(box.area * unclip / box.length, quad_segs=64).minimum_rotated_rectangle
        found.append((float(chart.ravel()[inside].mean()), grown))
    return sorted(found, key=lambda item: -item[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_text_regions_are_those_of_opencv_and_shapely(seed):
    chart = text_map(seed)
    settings = Evaluation(task="rotated", decoder="db", score_threshold=0.4, db_threshold=0.3, db_unclip=1.5)
    geometry = Geometry(160, 240, 160, 240)  # the map has half the side of the input
    output = {"map": np.stack([chart, np.zeros_like(chart)])[:, None]}
    found, empty = decode_predictions("rotated", "db", output, [geometry] * 2, settings, ["text"])
    wanted = [item for item in text_reference(chart, 0.3, 1.5) if item[0] >= 0.4]
    assert len(found.corners) == len(wanted) == 6
    assert not len(empty.scores)
    assert np.allclose(found.scores, [score for score, _ in wanted], atol=1e-5)
    for corners, (_, polygon) in zip(found.corners, wanted, strict=True):
        other = shapely.affinity.affine_transform(polygon, [2, 0, 0, 2, 1, 1])
        mine = shapely.Polygon(corners)
        assert mine.intersection(other).area / mine.union(other).area > 0.999


def test_text_maps_of_logits_are_told_by_the_config():
    chart = text_map(3)
    logits = {"map": np.log(np.clip(chart, 1e-4, None) / (1 - chart))[None, None]}
    geometry = Geometry(80, 120, 80, 120)
    with pytest.raises(OutputError, match="the text map holds values from"):
        decode_predictions("rotated", None, logits, [geometry], Evaluation(task="rotated"), ["text"])
    told = Evaluation(task="rotated", scores="logits")
    (found,) = decode_predictions("rotated", None, logits, [geometry], told, ["text"])
    (same,) = decode_predictions("rotated", None, {"map": chart[None, None]}, [geometry], Evaluation(), ["text"])
    assert np.allclose(found.corners, same.corners)
    assert len(same.corners) == 6
    with pytest.raises(OutputError, match="1 classes, 2 class names"):
        decode_predictions("rotated", "db", logits, [geometry], told, ["text", "sign"])
