"""``network.onnx`` beside this file as a PyTorch module that can be trained: for networks that come as ONNX alone.

``qat.py`` copies the file beside YOLOX-Nano, whose package holds no PyTorch. It knows the operators of such a network,
and no others. A Reshape to a batch of 1 takes any batch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

HERE = Path(__file__).parent


def build() -> nn.Module:
    """The network."""
    return OnnxModule(onnx.load(str(HERE / "network.onnx")))


class OnnxModule(nn.Module):
    """Runs the nodes of a graph in order; weights of convolutions are parameters."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._graph = model.graph
        self._known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._weights = nn.ParameterDict()
        for node in model.graph.node:
            for name in node.input[1:] if node.op_type == "Conv" else ():
                self._weights[f"w{name}"] = nn.Parameter(torch.from_numpy(np.array(self._known[name])))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, …) in; the graph's one output."""
        values = {self._graph.input[0].name: images}
        for node in self._graph.node:
            values[node.output[0]] = self._run(node, values)
        return values[self._graph.output[0].name]

    def _run(self, node: onnx.NodeProto, values: dict[str, torch.Tensor]) -> torch.Tensor:
        given = [values[name] for name in node.input if name in values]
        constants = [self._known[name] for name in node.input[1:] if name in self._known]
        settings = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        found: torch.Tensor = OPERATORS[node.op_type](self, node, given, constants, settings)
        return found

    def convolution(self, node: onnx.NodeProto, given: Any, _: Any, settings: Any) -> torch.Tensor:
        """A symmetric padding is all that is known."""
        parts = [self._weights[f"w{name}"] for name in node.input[1:]]
        weight, bias = parts[0], parts[1] if len(parts) > 1 else None
        pads = settings.get("pads", [0, 0, 0, 0])
        assert pads[:2] == pads[2:]
        strides = settings.get("strides", [1, 1])
        return functional.conv2d(given[0], weight, bias, strides, pads[:2], groups=settings.get("group", 1))


def _slice(_: Any, __: Any, given: Any, constants: Any, ___: Any) -> torch.Tensor:
    (values,), (starts, ends, axes, steps) = given, constants
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where = [slice(None)] * values.ndim
        where[int(axis)] = slice(int(start), None if end > values.shape[int(axis)] else int(end), int(step))
        values = values[tuple(where)]
    return values


def _reshape(_: Any, __: Any, given: Any, constants: Any, ___: Any) -> torch.Tensor:
    return given[0].reshape(given[0].shape[0], *map(int, constants[0][1:]))


def _max_pool(_: Any, __: Any, given: Any, ___: Any, settings: Any) -> torch.Tensor:
    return functional.max_pool2d(given[0], settings["kernel_shape"], settings["strides"], settings["pads"][:2])


def _resize(_: Any, __: Any, given: Any, constants: Any, ___: Any) -> torch.Tensor:
    return functional.interpolate(given[0], scale_factor=[float(one) for one in constants[-1][2:]], mode="nearest")


OPERATORS: dict[str, Any] = {
    "Conv": OnnxModule.convolution,
    "Sigmoid": lambda _, __, given, *___: torch.sigmoid(given[0]),
    "Mul": lambda _, __, given, *___: given[0] * given[1],
    "Add": lambda _, __, given, *___: given[0] + given[1],
    "Concat": lambda _, __, given, ___, settings: torch.cat(given, settings["axis"]),
    "Transpose": lambda _, __, given, ___, settings: given[0].permute(settings["perm"]),
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Reshape": _reshape,
    "Slice": _slice,
}
