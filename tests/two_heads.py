"""A network of two heads on composed scenes: the box of a red object, and the mask of green lanes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper

from small_project import BENCHMARK, value, write_model, write_picture

SIDE = 32
CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
std = [255.0, 255.0, 255.0]
[calibration]
images = "calib/"
count = 8
method = "minmax"
[evaluation]
images = "val/"
[evaluation.boxes]
task = "detection"
labels = "boxes.json"
outputs = ["boxes"]
decoder = "nms"
[evaluation.lanes]
task = "segmentation"
labels = "masks/"
classes = ["road", "lane"]
output = "lanes"
[target]
batch = { min = 1, opt = 2, max = 4 }
[candidates]
precisions = ["fp32", "int8"]
reduced_range = false
"""
    + BENCHMARK
    + """[gate]
latency_p99_ms = 5000.0
frame_p99_ms = 5000.0
max_drop = { boxes.map50 = 0.5, lanes.miou = 0.5 }
critical = { boxes.cone = 0.5, lanes.lane = 0.5 }
confidence = 0
accept_low_confidence = true
"""
)


PLACE = np.arange(SIDE, dtype=np.float32)
BOX_TENSORS = {
    "zero": np.array([0]), "one": np.array([1]), "plane": np.array([2, 3]),
    "limit": np.array(0.6, np.float32), "side": np.array(float(SIDE), np.float32),
    "none": np.array(0.0, np.float32),
    "right": (PLACE + 1).reshape(1, 1, 1, SIDE), "left": (SIDE - PLACE).reshape(1, 1, 1, SIDE),
    "bottom": (PLACE + 1).reshape(1, 1, SIDE, 1), "top": (SIDE - PLACE).reshape(1, 1, SIDE, 1),
}  # fmt: skip
"""Constants of :func:`box_around`."""


def box_around(red: str) -> list[NodeProto]:
    """Nodes from a plane [batch, 1, 32, 32] to ``boxes`` [batch, 1, 6]: corners around what is above 0.6, the highest
    value as score, class 0."""
    make = helper.make_node
    nodes = [
        make("Greater", [red, "limit"], ["object"], name="object"),
        make("Cast", ["object"], ["seen"], to=TensorProto.FLOAT, name="seen"),
        make("ReduceMax", [red, "plane"], ["score_4d"], name="score"),
    ]
    for name in ("right", "left", "bottom", "top"):
        nodes.append(make("Mul", ["seen", name], [f"{name}_all"], name=f"{name}_all"))
        nodes.append(make("ReduceMax", [f"{name}_all", "plane"], [f"{name}_4d"], name=f"{name}_max"))
    return [
        *nodes,
        make("Sub", ["side", "left_4d"], ["x1"], name="x1"),
        make("Sub", ["side", "top_4d"], ["y1"], name="y1"),
        make("Mul", ["score_4d", "none"], ["class"], name="class"),
        make("Concat", ["x1", "y1", "right_4d", "bottom_4d", "score_4d", "class"], ["row"], axis=3, name="row"),
        make("Squeeze", ["row", "one"], ["boxes"], name="boxes"),
    ]


def save(path: Path) -> Path:
    """``images`` float32 [batch, 3, 32, 32] → ``boxes`` [batch, 1, 6] (corners, score, class) around what is red, and
    ``lanes`` [batch, 2, 32, 32], logits of road and lane (what is green)."""
    make = helper.make_node
    nodes = [
        make("Conv", ["images", "w"], ["features"], name="stem"),
        make("Conv", ["features", "w_lanes", "b_lanes"], ["lanes"], name="lanes_head"),
        make("Slice", ["features", "zero", "one", "one"], ["red"], name="red"),
        *box_around("red"),
    ]
    tensors = BOX_TENSORS | {
        "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "w_lanes": np.array([[0, 0, 0], [0, 4, 0]], np.float32).reshape(2, 3, 1, 1),
        "b_lanes": np.array([2.0, 0.0], np.float32),
    }
    outputs = [value("boxes", ["batch", 1, 6]), value("lanes", ["batch", 2, SIDE, SIDE])]
    return write_model(path, nodes, [value("images", ["batch", 3, SIDE, SIDE])], outputs, tensors)


def project(folder: Path, *, images: int = 12) -> Path:
    """Write model, scenes, boxes, masks and config. Returns the config."""
    save(folder / "model.onnx")
    random = np.random.default_rng(5)
    for number in range(8):
        scene(folder / "calib" / f"{number}.png", random)
    listed, boxes = [], []
    for number in range(images):
        box, mask = scene(folder / "val" / f"{number:02}.png", random)
        listed.append({"id": number, "file_name": f"{number:02}.png", "width": SIDE, "height": SIDE})
        x1, y1, x2, y2 = box
        size = [x2 - x1, y2 - y1]
        boxes.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [x1, y1, *size], "area": size[0] * size[1],
             "iscrowd": 0}
        )  # fmt: skip
        write_picture(folder / "masks" / f"{number:02}.png", mask)
    told = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "cone"}]}
    (folder / "boxes.json").write_text(json.dumps(told))
    (folder / "edgeship.toml").write_text(CONFIG)
    return folder / "edgeship.toml"


def scene(path: Path, random: np.random.Generator) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """A dark road with a green lane and a red cone; the cone's box and the lane's mask."""
    pixels = random.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    left = int(random.integers(0, SIDE - 8))
    pixels[:, left : left + 5, 1] = 220
    x, y, w, h = (int(value) for value in (*random.integers(1, SIDE - 13, 2), *random.integers(6, 12, 2)))
    pixels[y : y + h, x : x + w] = (230, 10, 10)
    mask = (pixels[..., 1] > 127).astype(np.uint8)
    write_picture(path, pixels)
    return (x, y, x + w, y + h), mask
