"""Decoders: boxes planted in each head's own layout come back at their place, and misfits say what would fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeship.config import Evaluation, Preprocess
from edgeship.data.preprocess import Geometry, apply
from edgeship.decode import dense
from edgeship.decode.boxes import nms, yolox_grid
from edgeship.decode.decoders import decode_predictions, head_classes
from edgeship.errors import DataError, EngineError, OutputError

CLASSES = ("person", "car", "sign")
# A 640x320 image letterboxed into 64x64: scale 0.1, 16 rows of padding above.
GEOMETRY = Geometry(320, 640, 64, 64, 0.1, 0.1, 0.0, 16.0)
BOX = (100.0, 50.0, 300.0, 250.0)
"""Of a car, in the image."""
INPUT_BOX = (10.0, 21.0, 30.0, 41.0)
CENTRE = (20.0, 31.0, 20.0, 20.0)


def decoded(outputs, decoder, classes=CLASSES, geometries=(GEOMETRY,), **given):
    settings_ = Evaluation(task="detection", **given)
    return decode_predictions("detection", decoder, outputs, geometries, settings_, classes)


def yolox_raw(score=0.9):
    """A raw head in which one cell says the car."""
    cells, steps = yolox_grid(64, 64, (8, 16, 32))
    head = np.zeros((1, len(cells), 5 + len(CLASSES)), np.float32)
    where = 64 + 9
    cx, cy, w, h = CENTRE
    step = steps[where, 0]
    head[0, where, :4] = [cx / step - cells[where, 0], cy / step - cells[where, 1], np.log(w / step), np.log(h / step)]
    head[0, where, 4] = score
    head[0, where, 5 + 1] = 1.0
    return head


def yolox_pixels():
    cells, steps = yolox_grid(64, 64, (8, 16, 32))
    head = yolox_raw()
    head[0, :, :2] = (head[0, :, :2] + cells) * steps
    head[0, :, 2:4] = np.exp(head[0, :, 2:4]) * steps
    return head


def ultralytics(anchors=84):
    head = np.zeros((1, 4 + len(CLASSES), anchors), np.float32)
    head[0, :, 40] = [*CENTRE, 0.02, 0.9, 0.01]
    head[0, :, 41] = [CENTRE[0] + 1, *CENTRE[1:], 0.0, 0.6, 0.0]
    return head


def detr(no_object):
    logits = np.full((1, 10, len(CLASSES) + no_object), -9.0, np.float32)
    if no_object:
        logits[0, :, -1] = 9.0
        logits[0, 3, -1] = 0.0
    logits[0, 3, 1] = np.log(0.9 / 0.1)
    boxes = np.full((1, 10, 4), 0.5, np.float32)
    boxes[0, 3] = np.array(CENTRE) / 64
    return {"logits": logits, "pred_boxes": boxes}


SIX = np.array([[[*INPUT_BOX, 0.9, 1], [0, 0, 5, 5, 0.0, 0]]], np.float32)
HEADS = {
    "yolox raw": ({"output": yolox_raw()}, "yolox"),
    "yolox pixels": ({"output": yolox_pixels()}, "yolox"),
    "ultralytics": ({"output0": ultralytics()}, "ultralytics"),
    "detr softmax": (detr(1), "detr"),
    "detr sigmoid": (detr(0), "detr"),
    "nms six columns": ({"detections": SIX}, "nms"),
    "nms three arrays": ({"b": SIX[:, :, :4], "s": SIX[:, :, 4], "l": SIX[:, :, 5].astype(np.int64)}, "nms"),
    "nms with count": (
        {
            "num": np.array([[1]], np.int32),
            "boxes": SIX[:, :, :4],
            "scores": np.full((1, 2), 0.9, np.float32),
            "classes": np.array([[1, 0]], np.int32),
        },
        "nms",
    ),
    "torchvision, no batch axis": (
        {"boxes": SIX[0, :, :4], "labels": SIX[0, :, 5].astype(np.int64), "scores": SIX[0, :, 4]},
        "nms",
    ),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("say", [True, False])
def test_a_planted_box_comes_back(name, say):
    outputs, decoder = HEADS[name]
    found = decoded(outputs, decoder if say else None, score_threshold=0.05)[0]
    assert found.names == ["car"]
    assert found.boxes[0] == pytest.approx(BOX, abs=0.01)
    assert found.scores[0] == pytest.approx(0.9, abs=2e-3)


def test_padding_rows_are_left_out_and_each_image_has_its_geometry():
    outputs = {"detections": np.repeat(SIX, 4, axis=0)}
    flat = Geometry(64, 64, 64, 64)
    found = decoded(outputs, "nms", geometries=(GEOMETRY, flat))
    assert len(found) == 2
    assert found[1].boxes[0] == pytest.approx(INPUT_BOX)


def test_float16_heads_are_decoded():
    found = decoded({"output0": ultralytics().astype(np.float16)}, "ultralytics", score_threshold=0.5)[0]
    assert found.boxes[0] == pytest.approx(BOX, abs=1)


def test_a_broken_int8_head_does_not_overflow():
    head = yolox_raw()
    head[..., 2:4] = 3e4
    found = decoded({"output": head}, "yolox")[0]
    assert np.isfinite(found.boxes).all()


def test_detections_are_limited_and_sorted():
    many = np.zeros((1, 300, 6), np.float32)
    many[0, :, 2:4] = np.linspace(5, 60, 300)[:, None]
    many[0, :, 4] = np.linspace(0.1, 0.9, 300)
    found = decoded({"d": many}, "nms", geometries=(Geometry(64, 64, 64, 64),), max_detections=7)[0]
    assert len(found.scores) == 7
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.scores[0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("outputs", "decoder", "classes", "message"),
    [
        ({"o": ultralytics()}, "yolox", CLASSES, r"'yolox' does not fit .*'o' \[1, 7, 84\].*\n.*fits: ultralytics"),
        ({"o": yolox_raw()}, "ultralytics", CLASSES, r"does not fit .*\[1, 84, 8\].*\n.*fits: yolox"),
        (detr(1), "yolox", CLASSES, r"(?s)'logits' \[1, 10, 4\].*fits: detr"),
        ({"o": SIX}, "yolox", CLASSES, "(?s)fits: nms"),
        ({"o": np.zeros((1, 5), np.float32)}, None, CLASSES, "(?s)no decoder is set.*none of the built-in ones"),
        ({"o": ultralytics()}, "ultralytics", ("a", "b"), "output has 3 classes, 2 class names"),
        ({"o": ultralytics()}, "yolo", CLASSES, r"decoder is 'yolo' \(did you mean 'yolox'\?\)"),
        ({"o": np.array([[[*INPUT_BOX, 0.9, 7]]], np.float32)}, "nms", CLASSES, "class numbered 7, 3 class names"),
    ],
)
def test_decoders_that_do_not_fit(outputs, decoder, classes, message):
    with pytest.raises(DataError, match=message):
        decoded(outputs, decoder, classes)


def test_nan_fails_the_engine_not_the_input():
    head = ultralytics()
    head[0, 2, 3] = np.nan
    with pytest.raises(EngineError, match="'output0' holds NaN"):
        decoded({"output0": head}, "ultralytics")


def test_several_outputs_need_a_choice():
    outputs = {"main": ultralytics(), "aux": ultralytics()}
    with pytest.raises(DataError, match=r"evaluation\.output"):
        decoded(outputs, "ultralytics")
    assert decoded(outputs, "ultralytics", output="aux", score_threshold=0.8)[0].names == ["car"]
    with pytest.raises(DataError, match="output is 'other'"):
        decoded(outputs, "ultralytics", output="other")


def suppressed_one_by_one(boxes, scores, labels, iou):
    """The definition, box by box."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        for other in kept:
            if labels[other] != labels[index]:
                continue
            low = np.maximum(boxes[other, :2], boxes[index, :2])
            high = np.minimum(boxes[other, 2:], boxes[index, 2:])
            inside = np.prod(np.clip(high - low, 0, None))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (other, index)]
            if inside > 0 and inside / (sum(areas) - inside) > iou:
                break
        else:
            kept.append(index)
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 60), iou=st.floats(0.1, 0.9))
def test_nms_is_its_definition(seed, count, iou):
    random = np.random.default_rng(seed)
    start = random.integers(0, 40, (count, 2))
    sides = random.integers(random.choice([1, 0, -9]), 30, (count, 2))  # torchvision keeps what has no area, or less
    boxes = np.concatenate([start, start + sides], axis=1).astype(np.float64)
    scores, labels = random.random(count), random.integers(0, 3, count)
    assert nms(boxes, scores, labels, iou, 1000).tolist() == suppressed_one_by_one(boxes, scores, labels, iou)


def logits_of(mask, classes, stride=1):
    one_hot = np.eye(classes, dtype=np.float32)[mask[::stride, ::stride]]
    return (one_hot.transpose(2, 0, 1) * 4)[None]


def segmented(outputs, decoder, geometry, classes=CLASSES):
    return decode_predictions("segmentation", decoder, outputs, [geometry], Evaluation(task="segmentation"), classes)[0]


def test_segmentation_from_logits_and_class_maps():
    truth = np.zeros((48, 96), np.uint8)
    truth[10:30, 20:60] = 2
    picture = np.repeat(truth[:, :, None], 3, axis=2)
    placed, geometry = apply(picture, Preprocess(fit="letterbox", interpolation="nearest", pad_value=0), (96, 96))
    chart = placed[0].astype(np.int64)
    for outputs, decoder in (
        ({"out": logits_of(chart, 3)}, None),
        ({"out": chart[None]}, "classmap"),
        ({"out": chart[None, None].astype(np.int32)}, None),
        ({"out": chart[None].astype(np.float32)}, None),
    ):
        found = segmented(outputs, decoder, geometry)
        assert np.array_equal(found.mask, truth)


def interpolation(cells, pixels):
    """Bilinear weights [pixels, cells] with centres at half integers: torch's ``align_corners=False``."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(cells)[None, :]), 0, None)


def test_coarse_logits_are_resized_as_torch_does():
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 3, 16, 12)).astype(np.float32)
    expected = (interpolation(16, 64) @ logits[0] @ interpolation(12, 48).T).argmax(axis=0)
    found = segmented({"out": logits}, "logits", Geometry(64, 48, 64, 48))
    assert (found.mask == expected).mean() > 0.999


def test_one_channel_is_foreground_against_background():
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[0, 0, 2:4] = 3.0
    settings = Evaluation(task="segmentation", scores="logits")
    names = ("road", "lane")
    found = decode_predictions("segmentation", None, {"out": mask - 1}, [Geometry(8, 8, 8, 8)], settings, names)[0]
    assert found.mask[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_segmentation_heads_that_do_not_fit():
    geometry = Geometry(8, 8, 8, 8)
    with pytest.raises(DataError, match="output has 5 classes, 3 class names"):
        segmented({"out": np.zeros((1, 5, 8, 8), np.float32)}, None, geometry)
    with pytest.raises(DataError, match=r"(?s)'classmap' does not fit .*'out' \[1, 5, 8, 8\].*\"logits\""):
        segmented({"out": np.zeros((1, 5, 8, 8), np.float32)}, "classmap", geometry)
    with pytest.raises(DataError, match="holds class 9"):
        segmented({"out": np.full((1, 8, 8), 9)}, None, geometry)


@pytest.mark.parametrize("decoder", ["classmap", None])
def test_scores_without_a_class_axis_are_no_class_map(decoder):
    scores = np.array([[[0.2, 0.9], [1.4, 2.0]]], np.float32)
    with pytest.raises(OutputError, match=r"(?s)'out' \[1, 2, 2\]; .*'out' are not whole numbers.*\"logits\""):
        segmented({"out": scores}, decoder, Geometry(2, 2, 2, 2))
    beside = {"edges": scores, "out": logits_of(np.array([[0, 1], [1, 2]]), 3)}
    assert segmented(beside, None, Geometry(2, 2, 2, 2)).mask.tolist() == [[0, 1], [1, 2]]
    with pytest.raises(OutputError, match=r'(?s)does not fit.*do: set evaluation.decoder = "logits"'):
        segmented(beside, "classmap", Geometry(2, 2, 2, 2))


@pytest.mark.parametrize(("scores", "expected"), [("logits", [[1, 1], [0, 1]]), ("probabilities", [[0, 1], [0, 1]])])
def test_one_channel_is_read_as_it_is_said_whatever_its_values(scores, expected):
    for top in (0.9, 1.0000001, 7.0):
        values = np.array([[[0.4, 0.6], [-0.2, top]]], np.float32)
        assert dense.class_map(values, (2, 2), scores).tolist() == expected
    with pytest.raises(OutputError, match="nothing says whether it holds logits or probabilities"):
        dense.class_map(values, (2, 2))


def test_the_head_of_a_dense_output_is_finite_and_its_decoder_known():
    scores = np.full((1, 3, 2, 2), np.nan, np.float32)
    with pytest.raises(EngineError, match="NaN"):
        head_classes("segmentation", None, {"out": scores}, Evaluation(task="segmentation"))
    with pytest.raises(DataError, match=r"decoder is 'logit' \(did you mean 'logits'\?\)"):
        head_classes("segmentation", "logit", {"out": scores}, Evaluation(task="segmentation"))


def test_classification_from_logits_probabilities_and_spatial_tails():
    settings_ = Evaluation()
    logits = np.array([[1.0, 3.0, 2.0]], np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    for outputs in (logits, probabilities, logits[:, :, None, None]):
        found = decode_predictions("classification", None, {"o": outputs}, [GEOMETRY], settings_, CLASSES)[0]
        assert found.top(1) == [("car", pytest.approx(float(probabilities[0, 1]), abs=1e-6))]
    with pytest.raises(DataError, match="output has 3 classes, 2 class names"):
        decode_predictions("classification", None, {"o": logits}, [GEOMETRY], settings_, ("a", "b"))
    with pytest.raises(DataError, match=r"'o' \[1, 3, 4, 4\]; none of them could be the logits"):
        decode_predictions(
            "classification", None, {"o": np.zeros((1, 3, 4, 4), np.float32)}, [GEOMETRY], settings_, CLASSES
        )
    with pytest.raises(EngineError, match="NaN"):
        decode_predictions("classification", None, {"o": logits * np.nan}, [GEOMETRY], settings_, CLASSES)


def test_a_decoder_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_decoder.py").write_text(
        "import numpy as np\n"
        "def boxes(outputs, geometry):\n"
        "    return geometry.boxes_to_image(outputs['d'][:, :4]), outputs['d'][:, 4], outputs['d'][:, 5]\n"
        "def wrong(outputs, geometry):\n"
        "    return 3\n"
        "def mask(outputs, geometry):\n"
        "    return outputs['m']\n"
        "def broken(outputs, geometry):\n"
        "    return outputs['absent']\n"
    )
    monkeypatch.chdir(tmp_path)
    found = decoded({"d": SIX}, "own_decoder:boxes")[0]
    assert found.boxes[0] == pytest.approx(BOX)
    assert found.names == ["car", "person"]
    with pytest.raises(OutputError, match="own_decoder:wrong returned int"):
        decoded({"d": SIX}, "own_decoder:wrong")
    with pytest.raises(OutputError, match="own_decoder:boxes returned boxes with NaN"):
        decoded({"d": np.full((1, 1, 6), [[np.nan, 1, 2, 3, 0.5, 1]], np.float32)}, "own_decoder:boxes")
    small = Geometry(2, 2, 2, 2)
    assert segmented({"m": np.array([[[0, 2], [-1, 1]]])}, "own_decoder:mask", small).mask.tolist() == [[0, 2], [-1, 1]]
    for value, message in ((7, "holds class 7, 3 class names"), (-2, "holds class -2"), (np.nan, "mask with NaN")):
        with pytest.raises(OutputError, match=message):
            segmented({"m": np.full((1, 2, 2), value)}, "own_decoder:mask", small)
    settings_ = Evaluation(task="segmentation", decoder="own_decoder:mask")
    with pytest.raises(OutputError, match=r"own_decoder:mask returned shape \[2, 2\]") as refused:
        decode_predictions(
            "segmentation", "own_decoder:mask", {"m": np.ones((2, 2, 2))}, [small, GEOMETRY], settings_, CLASSES
        )
    assert refused.value.row == 1
    assert refused.value.of("b.png").found.startswith("b.png: own_decoder:mask returned")
    with pytest.raises(DataError, match="own_decoder:broken raised KeyError: 'absent'") as raised:
        decoded({"d": SIX}, "own_decoder:broken")
    assert raised.value.row == 0


def test_what_the_graph_tells_of_boxes_holds_whatever_an_image_shows():
    """Small values look raw, and are pixels all the same where the graph says that they are decoded."""
    head = np.zeros((1, 84, 5 + len(CLASSES)), np.float32)
    head[0, 70] = [2.0, 3.0, 4.0, 6.0, 0.9, 0.0, 1.0, 0.0]
    whole = (Geometry(64, 64, 64, 64),)
    found = decoded({"output": head}, "yolox", geometries=whole, box_values="decoded")[0]
    assert found.boxes[0] == pytest.approx([0, 0, 4, 6])
    guessed = decoded({"output": head}, "yolox", geometries=whole)[0]
    assert found.boxes[0] != pytest.approx(guessed.boxes[0])


def test_one_batch_is_read_one_way():
    """An image of nothing does not turn the boxes of its neighbours, nor they its own."""
    both = np.concatenate([yolox_raw(), yolox_raw()])
    both[1, :, :4] = 9.0  # alone, these would pass for pixels
    pair = decoded({"output": both}, "yolox", geometries=(GEOMETRY, GEOMETRY), box_values="raw")
    assert pair[0].boxes[0] == pytest.approx(decoded({"output": yolox_raw()}, "yolox")[0].boxes[0])
