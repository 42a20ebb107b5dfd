"""Small ONNX files for the GPU tests, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 64


def convolutions(path: Path, *, depth: int = 6, channels: int = 32, half: bool = False, size: int = SIZE) -> Path:
    """Convolutions with ReLU named conv0, conv1 …, then a pooled product named fc."""
    random = np.random.default_rng(0)
    kind, number = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    nodes, weights, current, inner = [], [], "images", 3
    for layer in range(depth):
        weight = random.standard_normal((channels, inner, 3, 3)) * np.sqrt(2 / (9 * inner))
        weights += [numpy_helper.from_array(weight.astype(kind), f"w{layer}")]
        nodes += [
            helper.make_node("Conv", [current, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], f"relu{layer}"),
        ]
        current, inner = f"r{layer}", channels
    weights.append(numpy_helper.from_array((random.standard_normal((channels, 10)) * 0.1).astype(kind), "fw"))
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "fw"], ["logits"], "fc"),
    ]
    images_in = helper.make_tensor_value_info("images", number, ["batch", 3, size, size])
    logits = helper.make_tensor_value_info("logits", number, ["batch", 10])
    return save(path, helper.make_graph(nodes, "convolutions", [images_in], [logits], weights))


def with_cpu_only_node(path: Path) -> Path:
    """A graph with a node that onnxruntime has no CUDA kernel for (Det), between two products."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((4, 4)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Det", ["h"], ["y"], "determinant"),
    ]
    return save(path, helper.make_graph(nodes, "mixed", [x], [y], [weight]))


def nonzero(path: Path) -> Path:
    """An output whose size depends on the data."""
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows"])
    places = helper.make_tensor_value_info("places", TensorProto.INT64, [1, "found"])
    node = helper.make_node("NonZero", ["values"], ["places"], "nonzero")
    return save(path, helper.make_graph([node], "nonzero", [values], [places]))


def wide(path: Path) -> Path:
    """Convolutions at full resolution: 16 MiB of activations a layer and image."""
    return convolutions(path, depth=3, channels=64, size=256)


def save(path: Path, graph: onnx.GraphProto) -> Path:
    """A checked model at opset 18."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def images(rows: int, seed: int = 0, dtype: type = np.float32, size: int = SIZE) -> dict[str, np.ndarray]:
    """Feeds for :func:`convolutions`."""
    return {"images": np.random.default_rng(seed).standard_normal((rows, 3, size, size)).astype(dtype)}
