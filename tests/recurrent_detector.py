"""A detector with memory over sequences: it still knows the red object where a frame hides it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from small_project import BENCHMARK, value, write_model, write_picture
from two_heads import BOX_TENSORS, SIDE, box_around

CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
std = [255.0, 255.0, 255.0]
[state]
plane = { in = "before", out = "now", init = 0 }
[calibration]
images = "calib/"
count = 24
method = "minmax"
[evaluation]
task = "detection"
images = "val/"
labels = "boxes.json"
decoder = "nms"
outputs = ["boxes"]
group = "^[^/]+"
[candidates]
precisions = ["fp32", "int8"]
reduced_range = false
"""
    + BENCHMARK
    + """[gate]
latency_p99_ms = 5000.0
max_drop = { map50 = 0.5, recall = 0.5 }
confidence = 0
accept_low_confidence = true
"""
)


def hidden(number: int) -> bool:
    """Whether a frame does not show the object: every third one."""
    return number % 3 == 2


def save(path: Path) -> Path:
    """``images`` float32 [1, 3, 32, 32] and ``before`` [1, 1, 32, 32] → ``boxes`` [1, 1, 6] around what is red or was
    red of late, and ``now``, which fades."""
    make = helper.make_node
    nodes = [
        make("Conv", ["images", "w"], ["features"], name="stem"),
        make("Slice", ["features", "zero", "one", "one"], ["red"], name="red"),
        make("Mul", ["before", "keep"], ["faded"], name="fade"),
        make("Max", ["red", "faded"], ["now"], name="now"),
        *box_around("now"),
    ]
    tensors = BOX_TENSORS | {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "keep": np.array(0.75, np.float32)}
    plane = ["before", "now"]
    inputs = [value("images", [1, 3, SIDE, SIDE]), value(plane[0], [1, 1, SIDE, SIDE])]
    return write_model(path, nodes, inputs, [value("boxes", [1, 1, 6]), value(plane[1], [1, 1, SIDE, SIDE])], tensors)


def project(folder: Path, *, sequences: int = 3, frames: int = 12) -> Path:
    """Write model, sequences and config. Frames are named by numbers without zeros; the labels know the object where
    it is hidden. Returns the config."""
    save(folder / "model.onnx")
    random = np.random.default_rng(3)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for place in ("calib", "val"):
        for sequence in range(sequences):
            x, y, w, h = (int(each) for each in (*random.integers(1, SIDE - 13, 2), *random.integers(6, 12, 2)))
            for number in range(frames):
                pixels = random.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
                if not hidden(number):
                    pixels[y : y + h, x : x + w] = (230, 10, 10)
                name = f"drive{sequence}/{number}.png"
                write_picture(folder / place / name, pixels)
                if place == "val":
                    images.append({"id": len(images), "file_name": name, "width": SIDE, "height": SIDE})
                    told = {"id": len(boxes) + 1, "image_id": len(images) - 1, "category_id": 1, "iscrowd": 0}
                    boxes.append(told | {"bbox": [x, y, w, h], "area": w * h})
    told = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cone"}]}
    (folder / "boxes.json").write_text(json.dumps(told))
    (folder / "edgeship.toml").write_text(CONFIG)
    return folder / "edgeship.toml"
