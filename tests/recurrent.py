"""A classifier with memory over sequences of pictures: which colour was brightest of late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from small_project import BENCHMARK, value, write_model, write_picture

NAMES = ("red", "green", "blue")
KEEP = 0.75
CONFIG = (
    """
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
"""
    + BENCHMARK
    + """[gate]
latency_p99_ms = 5000.0
frame_p99_ms = 5000.0
max_drop = { top1 = 0.5 }
confidence = 0
accept_low_confidence = true
"""
)


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
    inputs = [value("images", [batch, 3, 8, 8]), value("mem_in", [1, 3])]
    outputs = [value("logits", [batch, 3]), value("mem_out", [1, *memory])]
    return write_model(path, nodes, inputs, outputs, tensors)


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
    write_picture(path, pixels)
    return np.asarray(pixels.mean(axis=(0, 1)) / 255)


def rows() -> list[tuple[NDArray[np.uint8], int]]:
    """Labelled frames without names."""
    return [(np.zeros((8, 8, 3), np.uint8), 0)]
