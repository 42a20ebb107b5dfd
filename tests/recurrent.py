"""A classifier with memory over sequences of pictures: which colour was brightest of late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

NAMES = ("red", "green", "blue")
KEEP = 0.75
CONFIG = """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
std = [255.0, 255.0, 255.0]
[state]
memory = { in = "mem_in", out = "mem_out", init = 0.25 }
[calibration]
images = "calib/"
count = 24
method = "minmax"
[evaluation]
images = "val/"
labels = "labels.csv"
classes = ["red", "green", "blue"]
group = "^[^/]+"
[candidates]
precisions = ["fp32", "int8"]
reduced_range = false
[benchmark]
warmup_s = 0.05
min_s = 0.1
max_s = 0.5
min_samples = 20
precision = 0.9
[gate]
latency_p99_ms = 5000.0
frame_p99_ms = 5000.0
max_drop = { top1 = 0.5 }
confidence = 0
accept_low_confidence = true
"""


def save(path: Path, *, batch: int | str = 1, memory: tuple[int, ...] = (3,)) -> Path:
    """``images`` float32 [batch, 3, 8, 8] and ``mem_in`` float32 [1, 3] → ``logits`` [batch, 3] = ``mem_out``:
    the mean colours + KEEP of what was remembered."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Mul", ["mem_in", "keep"], ["old"], name="fade"),
        helper.make_node("Add", ["f", "old"], ["logits"], name="add"),
        helper.make_node("Reshape", ["logits", "shape"], ["mem_out"], name="remember"),
    ]
    tensors = {
        "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "keep": np.array(KEEP, np.float32),
        "shape": np.array([1, *memory]),
    }
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8]),
        helper.make_tensor_value_info("mem_in", TensorProto.FLOAT, [1, 3]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3]),
        helper.make_tensor_value_info("mem_out", TensorProto.FLOAT, [1, *memory]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "recurrent", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def project(folder: Path, *, sequences: int = 4, frames: int = 8, **model: object) -> Path:
    """Write model, sequences and config; labels are what the model answers with its memory. Returns the config."""
    save(folder / "model.onnx", **model)  # type: ignore[arg-type]
    random = np.random.default_rng(3)
    lines = ["image,label"]
    for place in ("calib", "val"):
        for sequence in range(sequences):
            remembered = np.full(3, 0.25)
            for number in range(frames):
                colours = _picture(folder / place / f"drive{sequence}" / f"{number:03}.png", random)
                remembered = colours + KEEP * remembered
                if place == "val":
                    lines.append(f"drive{sequence}/{number:03}.png,{NAMES[int(np.argmax(remembered))]}")
    (folder / "labels.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    (folder / "edgeship.toml").write_text(CONFIG)
    return folder / "edgeship.toml"


def _picture(path: Path, random: np.random.Generator) -> NDArray[np.float64]:
    """A picture of one colour; its mean colours in 0..1."""
    pixels = np.broadcast_to(random.integers(0, 256, 3), (8, 8, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return np.asarray(pixels.mean(axis=(0, 1)) / 255)


def rows() -> list[tuple[NDArray[np.uint8], int]]:
    """Labelled frames without names."""
    return [(np.zeros((8, 8, 3), np.uint8), 0)]
