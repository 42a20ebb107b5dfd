"""The fashion example's network and pictures, and tiny graphs for one operator each, for the calibration tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeship.config import Model, Preprocess
from edgeship.data.frames import FrameChoice, Frames, frames
from edgeship.prepare.export import export
from edgeship.prepare.graph import inputs_of, load_onnx

FASHION = Path(__file__).parents[3] / "examples" / "fashion"
PREPROCESS = Preprocess(fit="stretch", color="gray", mean=(73.0,), std=(90.0,))


def export_fashion(folder: Path) -> Path:
    """The trained example network as ONNX."""
    settings = Model.model_validate(
        {
            "source": "model:build",
            "weights": FASHION / "weights.safetensors",
            "inputs": {"images": {"shape": ["batch", 1, 28, 28]}},
        }
    )
    result = export(settings, FASHION, folder / "model.onnx")
    return folder / result.model.path


def pictures(model: Path, count: int, which: str = "calib", batch: int = 8) -> Frames:
    """Real pictures as the network's input."""
    return frames(FASHION / which, PREPROCESS, inputs_of(load_onnx(model)), FrameChoice(count=count, batch=batch))


def graph(
    nodes: list[onnx.NodeProto], weights: dict[str, Any], shape: list[Any], outputs: list[str]
) -> onnx.ModelProto:
    """A graph with one input ``x``."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its first output."""
    return helper.make_node(
        kind, inputs.split(), outputs.split(), name=f"n_{outputs.split(maxsplit=1)[0]}", **attributes
    )


def tiny(kind: str) -> onnx.ModelProto:
    """A graph around one thing that quantizers get wrong; weights are seeded, channels differ a hundredfold in size."""
    rng = np.random.default_rng(7)

    def weight(*shape: int) -> Any:
        spread = np.logspace(-1, 1, shape[0], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1))
        return (rng.standard_normal(shape).astype(np.float32) * spread * 0.2).astype(np.float32)

    conv = {"w": weight(8, 3, 3, 3), "b": rng.standard_normal(8).astype(np.float32)}
    stem = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r")]
    image = ["batch", 3, 16, 16]
    if kind == "residual":
        extra = {"w2": weight(8, 8, 3, 3)}
        nodes = [*stem, node("Conv", "r w2", "d", pads=[1, 1, 1, 1]), node("Add", "d r", "s"), node("Relu", "s", "y")]
        return graph(nodes, conv | extra, image, ["y"])
    if kind == "wide residual":
        weights = {"w": weight(32, 3, 3, 3), "b": np.ones(32, np.float32), "w2": weight(32, 32, 3, 3),
                   "w3": weight(32, 32, 3, 3)}  # fmt: skip
        nodes = [*stem, node("Conv", "r w2", "d", pads=[1] * 4), node("Relu", "d", "e")]
        nodes += [node("Conv", "e w3", "f", pads=[1] * 4), node("Add", "f r", "s"), node("Relu", "s", "y")]
        return graph(nodes, weights, image, ["y"])
    if kind == "concat":
        extra = {"w2": weight(4, 8, 1, 1), "w3": weight(4, 12, 1, 1)}
        nodes = [*stem, node("Conv", "r w2", "d"), node("Concat", "r d", "k", axis=1), node("Conv", "k w3", "y")]
        return graph(nodes, conv | extra, image, ["y"])
    if kind == "depthwise":
        nodes = [*stem, node("Conv", "r w2", "y", group=8, pads=[1, 1, 1, 1])]
        return graph(nodes, conv | {"w2": weight(8, 1, 3, 3)}, image, ["y"])
    if kind == "transposed":
        nodes = [*stem, node("ConvTranspose", "r w2 b2", "y", strides=[2, 2])]
        return graph(nodes, conv | {"w2": weight(8, 4, 2, 2), "b2": np.ones(4, np.float32)}, image, ["y"])
    if kind == "gemm":
        nodes = [*stem, node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "f"), node("Gemm", "f w2 b2", "y")]
        return graph(nodes, conv | {"w2": weight(8, 5), "b2": np.ones(5, np.float32)}, image, ["y"])
    if kind == "shared":
        nodes = [*stem, node("Conv", "r w2 b", "d", pads=[1, 1, 1, 1]), node("Conv", "d w2 b", "y", pads=[1, 1, 1, 1])]
        return graph(nodes, conv | {"w2": weight(8, 8, 3, 3)}, image, ["y"])
    if kind == "relu6":
        extra = {"w2": weight(8, 8, 3, 3), "zero": np.float32(0), "six": np.float32(6)}
        nodes = [stem[0], node("Clip", "c zero six", "r"), node("Conv", "r w2", "y", pads=[1, 1, 1, 1])]
        return graph(nodes, conv | extra, image, ["y"])
    if kind == "ranking":
        extra = {"w2": weight(8, 8, 1, 1), "dead": -np.ones((8, 8, 1, 1), np.float32), "w3": weight(8, 8, 1, 1),
                 "shape": np.array([0, 8, -1]), "axis": np.array([1]), "count": np.array([5])}  # fmt: skip
        nodes = [*stem, node("Conv", "r w2", "d"), node("Reshape", "d shape", "f")]
        nodes += [node("ReduceMax", "f axis", "m", keepdims=0), node("TopK", "m count", "y i", axis=1)]
        nodes += [
            node("Conv", "r dead", "e"),
            node("Relu", "e", "z"),
            node("Conv", "z w3", "u"),
            node("Add", "u d", "v"),
        ]
        return graph(nodes, conv | extra, image, ["y", "v"])
    if kind == "attention":
        weights = {name: weight(16, 16) for name in ("wq", "wk", "wv")} | {"scale": np.float32(0.05)}
        nodes = [node("MatMul", f"x w{part}", part) for part in "qkv"]
        nodes += [
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "l"),
            node("Mul", "l scale", "m"),
        ]
        nodes += [node("Softmax", "m", "a", axis=-1), node("MatMul", "a v", "y")]
        return graph(nodes, weights, ["batch", 12, 16], ["y"])
    raise KeyError(kind)


def patches(kind: str, count: int = 16) -> list[tuple[list[str], dict[str, Any]]]:
    """Real pictures cut to the tiny graphs' inputs."""
    module = importlib.import_module("PIL.Image")
    paths = sorted((FASHION / "calib").glob("*.png"))[: 3 * count]
    stack = np.stack([np.asarray(module.open(path).convert("L"), np.float32) for path in paths])
    planes = ((stack - 73.0) / 90.0).reshape(count, 3, 28, 28)[:, :, 6:22, 6:22]
    shaped = planes if kind != "attention" else planes.reshape(count, -1)[:, : 12 * 16].reshape(count, 12, 16)
    return [([f"{row}"], {"x": np.ascontiguousarray(shaped[row : row + 1])}) for row in range(count)]
