"""A project of a few pictures and an ONNX classifier that says which of red, green and blue is brightest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from small_project import BENCHMARK, value, write_model, write_picture

NAMES = ("red", "green", "blue")
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
classes = ["red", "green", "blue"]
[target]
batch = { min = 1, opt = 1, max = 8 }
[candidates]
precisions = ["fp32", "int8"]
reduced_range = false
"""
    + BENCHMARK
    + """[gate]
latency_p99_ms = 5000.0
max_drop = { top1 = 0.5 }
confidence = 0
accept_low_confidence = true
"""
)


def save(path: Path, *, batch: int | str = "batch", extra_input: bool = False, leak: bool = False) -> Path:
    """The model: ``images`` float32 [batch, 3, 16, 16] → ``logits`` [batch, 3].

    ``extra_input``: also needs ``size``; ``leak``: an answer depends on the other images of the batch.
    """
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v"], ["g"], name="fc"),
    ]
    tensors = {"w": 4 * np.eye(3).reshape(3, 3, 1, 1), "v": 5 * np.eye(3)}
    if leak:
        nodes.append(helper.make_node("ReduceMean", ["g", "axes"], ["m"], name="mean"))
        nodes.append(helper.make_node("Sub", ["g", "m"], ["logits"], name="sub"))
    elif extra_input:
        nodes.append(helper.make_node("Add", ["g", "size"], ["logits"], name="add"))
    else:
        nodes.append(helper.make_node("Identity", ["g"], ["logits"], name="out"))
    inputs = [value("images", [batch, 3, 16, 16])]
    if extra_input:
        inputs.append(value("size", [1, 3]))
    constants = {name: array.astype(np.float32) for name, array in tensors.items()}
    if leak:
        constants["axes"] = np.array([0])
    return write_model(path, nodes, inputs, [value("logits", [batch, 3])], constants)


def picture(path: Path, colour: int, seed: int) -> None:
    """Noise with one channel brighter; the same seed gives the same picture."""
    random = np.random.default_rng(seed)
    pixels = random.integers(20, 120, (16, 16, 3))
    pixels[..., colour] += 100
    write_picture(path, pixels)


def project(folder: Path, *, each: int = 24, **model: object) -> Path:
    """Write model, pictures and config. Returns the config."""
    save(folder / "model.onnx", **model)  # type: ignore[arg-type]
    for number in range(8):
        picture(folder / "calib" / f"{number}.png", number % 3, 1000 + number)
    for colour, name in enumerate(NAMES):
        for number in range(each):
            picture(folder / "val" / name / f"{number:03}.png", colour, 100 * colour + number)
    (folder / "edgeship.toml").write_text(CONFIG)
    return folder / "edgeship.toml"
