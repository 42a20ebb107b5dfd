"""ONNX graphs as others write them, and broken ones, for the tests of what takes them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node, value = helper.make_node, helper.make_tensor_value_info
FLOAT = TensorProto.FLOAT
SIDE = 16


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    """Seeded float32 weights."""
    values = np.random.default_rng(seed).standard_normal(shape) * 0.3
    return numpy_helper.from_array(values.astype(np.float32), name)


def numbers(name: str, *values: int) -> onnx.TensorProto:
    """A one-dimensional int64 constant."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def image(*shape: int | str) -> onnx.ValueInfoProto:
    """The input ``x``."""
    return value("x", FLOAT, list(shape or ("batch", 3, SIDE, SIDE)))


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[onnx.TensorProto] = (),
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 18,
    ir: int = 8,
) -> onnx.ModelProto:
    """A model with one image input ``x`` and one output ``y`` unless told otherwise."""
    made = helper.make_graph(
        list(nodes),
        "g",
        list(inputs or [image()]),
        list(outputs or [value("y", FLOAT, ["batch", 4, SIDE, SIDE])]),
        list(tensors),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def convolution(source: str = "x", target: str = "y", weights: str = "w") -> onnx.NodeProto:
    """A 3×3 convolution."""
    return node("Conv", [source, weights], [target], name=f"conv_{target}", pads=[1, 1, 1, 1])


def reshaped(*shapes: Sequence[int]) -> onnx.ModelProto:
    """Convolution, Reshapes to fixed shapes one after the other, ReLU."""
    names = [f"r{place}" for place in range(len(shapes))]
    steps = [
        node("Reshape", [before, f"s{place}"], [name], name=name)
        for place, (before, name) in enumerate(zip(["a", *names], names, strict=False))
    ]
    return model(
        [convolution(target="a"), *steps, node("Relu", [names[-1]], ["y"], name="relu")],
        [weight("w", 4, 3, 3, 3), *(numbers(f"s{place}", *shape) for place, shape in enumerate(shapes))],
    )


def saved(made: onnx.ModelProto, path: Path) -> Path:
    """Write a model as it is, checked by nobody."""
    path.write_bytes(made.SerializeToString())
    return path
