"""Decoders of instance masks: masks planted in each head's own layout come back at their place."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgeship.config import Evaluation
from edgeship.data.preprocess import Geometry
from edgeship.decode.decoders import decode_predictions
from edgeship.decode.instances import sampled
from edgeship.decode.predictions import Instances
from edgeship.errors import OutputError

CLASSES = ("person", "car")
PLAIN = Geometry(64, 64, 64, 64)
# A 128x64 image letterboxed into 64x64: scale 0.5, 16 rows of padding above.
LETTERBOX = Geometry(64, 128, 64, 64, 0.5, 0.5, 0.0, 16.0)


def decoded(outputs, decoder=None, geometry=PLAIN, **given):
    settings = Evaluation(task="instances", **given)
    (found,) = decode_predictions("instances", decoder, outputs, [geometry], settings, CLASSES)
    assert isinstance(found, Instances)
    return found


def yolo(anchors=40, ended=False):
    """A car in (8, 8)-(40, 32) of the input and a weak copy of it; its mask is the left half."""
    prototypes = np.full((1, 3, 16, 16), -1.0, np.float32)
    prototypes[0, 1, :, :6] = 1.0
    if ended:
        rows = np.zeros((1, 5, 9), np.float32)
        rows[0, 2] = [8, 8, 40, 32, 0.9, 1, 0, 2, 0]
        return {"output0": rows, "output1": prototypes}
    head = np.zeros((1, 4 + 2 + 3, anchors), np.float32)
    head[0, :, 7] = [24, 20, 32, 24, 0.1, 0.9, 0, 2, 0]
    head[0, :, 8] = [24.5, 20, 32, 24, 0.1, 0.6, 0, 2, 0]
    return {"output0": head, "output1": prototypes}


@pytest.mark.parametrize("ended", [False, True])
def test_prototypes_become_a_mask_inside_the_box(ended):
    found = decoded(yolo(ended=ended), score_threshold=0.25)
    assert found.names == ["car"]
    assert found.boxes.tolist() == [[8, 8, 40, 32]]
    mask = found.mask(0)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    assert (rows[0], rows[-1]) == (8, 31)
    assert (columns[0], columns[-1]) == (8, 23)
    assert found.regions[0].area == mask.sum() == 24 * 16
    assert set(np.unique(found.class_map())) == {0, 2}


def test_a_letterbox_is_undone():
    found = decoded(yolo(), geometry=LETTERBOX, score_threshold=0.25)
    assert found.boxes.tolist() == [[16, 0, 80, 32]]
    mask = found.mask(0)
    assert mask.shape == (64, 128)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (0, 31, 16, 47)


def test_interpolation_is_bilinear_between_cell_centres():
    plane = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    wanted = np.asarray(Image.fromarray(plane).resize((45, 24), Image.Resampling.BILINEAR))
    y, x = (np.arange(24) + 0.5) / 4 - 0.5, (np.arange(45) + 0.5) / 5 - 0.5
    assert np.allclose(sampled(plane, y, x), wanted, atol=1e-5)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_mask_rcnn(batched, whole):
    boxes = np.array([[0, 0, 10, 10], [8, 16, 36, 44]], np.float32)
    masks = np.zeros((2, 1, 28, 28), np.float32)
    masks[1, 0, :, :14] = 0.9
    if whole:
        masks = np.zeros((2, 1, 64, 64), np.float32)
        masks[1, 0, 16:44, 8:22] = 0.9
    outputs = {"boxes": boxes, "labels": np.array([0, 1]), "scores": np.array([0.0, 0.8], np.float32), "masks": masks}
    if batched:
        outputs = {name: value[None] for name, value in outputs.items()}
    found = decoded(outputs, score_threshold=0.25)
    assert found.names == ["car"]
    wanted = np.zeros((64, 64), bool)
    wanted[16:44, 8:22] = True
    assert np.array_equal(found.mask(0), wanted)


def test_choosing_boxes_keeps_their_masks():
    outputs = yolo()
    outputs["output0"][0, :, 20] = [50, 50, 12, 12, 0.5, 0.0, 0, 1, 0]
    found = decoded(outputs, score_threshold=0.25)
    assert found.names == ["car", "person"]
    best = found.above(0.8)
    assert (best.names, len(best.regions)) == (["car"], 1)
    assert found.take(np.array([1])).regions[0] is found.regions[1]


def test_outputs_without_masks_are_refused():
    with pytest.raises(OutputError, match="no decoder is set for the outputs"):
        decoded({"output0": np.zeros((1, 6, 40), np.float32)})
    with pytest.raises(OutputError, match="7 classes, 2 class names were given"):
        decoded({"a": np.zeros((1, 14, 40), np.float32), "b": np.zeros((1, 3, 8, 8), np.float32)}, "ultralytics-seg")
