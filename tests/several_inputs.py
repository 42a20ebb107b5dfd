"""A classifier of six inputs, each of which its answer needs, and the files that feed them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from small_project import BENCHMARK, value, write_model, write_picture

NAMES = ("red", "green", "blue")
WEIGHT = 4.0
CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
std = [255.0, 255.0, 255.0]
[preprocess.front]
size = [16, 16]
[preprocess.left]
color = "bgr"
[inputs.left]
from = "images"
calibration = "calib/left"
evaluation = "val/left"
[inputs.size]
from = "image_size"
[inputs.matrix]
value = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
[inputs.prior]
from = "arrays"
calibration = "calib/prior"
evaluation = "val/prior.csv"
[inputs.pose]
from = "columns"
columns = ["x", "y", "yaw"]
calibration = "calib/poses.csv"
evaluation = "val/poses.csv"
[calibration]
images = "calib/front"
count = 12
method = "minmax"
[evaluation]
images = "val/front"
labels = "val/labels.csv"
classes = ["red", "green", "blue"]
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
max_drop = { top1 = 0.5 }
confidence = 0
accept_low_confidence = true
"""
)


def save(path: Path, *, rows: int | str = "batch") -> Path:
    """``front`` and ``left`` float32 [batch, 3, 16, 16] (left in BGR), ``size`` int64 [batch, 2] (height, width),
    ``matrix`` float32 [3, 3], ``prior`` float64 [batch, 3], ``pose`` float32 [rows, 3] → ``logits`` [batch, 3]:
    the matrix times (mean colours of both pictures + prior + pose), over a hundredth of the picture's height."""
    nodes = []
    for name in ("front", "left"):
        nodes.append(helper.make_node("Conv", [name, f"w_{name}"], [f"{name}_c"], name=f"conv_{name}"))
        nodes.append(helper.make_node("GlobalAveragePool", [f"{name}_c"], [f"{name}_p"], name=f"pool_{name}"))
        nodes.append(helper.make_node("Flatten", [f"{name}_p"], [f"{name}_f"], name=f"flatten_{name}"))
    nodes += [
        helper.make_node("Cast", ["prior"], ["prior_f"], to=TensorProto.FLOAT, name="cast_prior"),
        helper.make_node("Sum", ["front_f", "left_f", "prior_f", "pose"], ["sum"], name="sum"),
        helper.make_node("MatMul", ["sum", "matrix"], ["turned"], name="turn"),
        helper.make_node("Cast", ["size"], ["size_f"], to=TensorProto.FLOAT, name="cast_size"),
        helper.make_node("Slice", ["size_f", "zero", "one", "one"], ["height"], name="height"),
        helper.make_node("Div", ["turned", "height"], ["small"], name="divide"),
        helper.make_node("Mul", ["small", "hundred"], ["logits"], name="scale"),
    ]
    colours = WEIGHT * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    tensors = {
        "w_front": colours,
        "w_left": np.ascontiguousarray(colours[:, ::-1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "hundred": np.array(100.0, np.float32),
    }
    inputs = [
        value("front", ["batch", 3, 16, 16]),
        value("left", ["batch", 3, 16, 16]),
        value("size", ["batch", 2], TensorProto.INT64),
        value("matrix", [3, 3]),
        value("prior", ["batch", 3], TensorProto.DOUBLE),
        value("pose", [rows, 3]),
    ]
    return write_model(path, nodes, inputs, [value("logits", ["batch", 3])], tensors)


def project(folder: Path, *, images: int = 24, **model: object) -> Path:
    """Write model, pictures, values and config; labels are what the model answers. Returns the config."""
    save(folder / "model.onnx", **model)  # type: ignore[arg-type]
    _calibration(folder / "calib")
    _evaluation(folder / "val", images)
    (folder / "edgeship.toml").write_text(CONFIG)
    return folder / "edgeship.toml"


def _picture(path: Path, random: np.random.Generator, height: int) -> NDArray[np.float64]:
    """A picture of one colour in noise; its mean colours in 0..1 as the network sees them."""
    pixels = random.integers(0, 40, (height, 20, 3)) + random.integers(0, 200, 3)
    write_picture(path, pixels)
    return np.asarray(pixels.mean(axis=(0, 1)) / 255)


def _calibration(folder: Path) -> None:
    random = np.random.default_rng(1)
    lines = ["image;x;y;yaw"]
    (folder / "prior").mkdir(parents=True)
    for number in range(12):
        for camera in ("front", "left"):
            _picture(folder / camera / f"{number:03}.png", random, 24)
        np.save(folder / "prior" / f"{number:03}.npy", random.normal(0, 1, 3))
        lines.append(f"{number:03};" + ";".join(f"{value:.4f}" for value in random.normal(0, 1, 3)))
    (folder / "poses.csv").write_text("\n".join(lines) + "\n")


def _evaluation(folder: Path, images: int) -> None:
    random = np.random.default_rng(2)
    labels, poses, index = ["image,label"], ["image,x,y,yaw"], ["image,prior"]
    (folder / "arrays").mkdir(parents=True)
    for number in range(images):
        total = sum(_picture(folder / c / f"{number:03}.png", random, 20 + number) for c in ("front", "left")) * WEIGHT
        prior, pose = random.normal(0, 1.5, 3), random.normal(0, 1.5, 3).round(3)
        np.save(folder / "arrays" / f"p{images - number}.npy", prior)
        index.append(f"{number:03}.png,arrays/p{images - number}.npy")
        poses.append(f"{number:03}.png," + ",".join(map(str, pose)))
        labels.append(f"{number:03}.png,{NAMES[int(np.argmax(total + prior + pose))]}")
    for name, lines in (("labels", labels), ("poses", poses), ("prior", index)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
