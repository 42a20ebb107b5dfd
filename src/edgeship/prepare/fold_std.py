"""The division of an image's channels, moved into the convolutions that read the image.

Some runtimes scale all channels by one factor (DeepStream's ``net-scale-factor``). A convolution is linear in its input
and pads with zeros, so dividing channel c by ``std[c]`` before it is the same as dividing by one number s before it and
multiplying its weights for channel c by s / ``std[c]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import ModelError
from edgeship.prepare import graph
from edgeship.prepare.tidy import reads

if TYPE_CHECKING:
    import onnx

REMEDY = "divide the weights of the layer that reads the image by std, channel by channel, set one std, and ship again"


def fold_std(model: onnx.ModelProto, std: Sequence[float]) -> tuple[onnx.ModelProto, float, tuple[str, ...]]:
    """A copy of a graph that takes its image divided by one number instead of each channel by its own.

    Args:
        model: FP32, with one input [batch, channels, height, width] that convolutions read and nothing else does.
        std: One divisor a channel.

    Returns:
        The graph, the one divisor (the mean of ``std``), and the names of the convolutions that hold the rest.

    Raises:
        ModelError: Something else than a convolution reads the input, or its weights are not stored float32 numbers.
    """
    image = graph.inputs_of(model)[0].name
    first = [node for node in model.graph.node if image in reads(node)]
    kept = float(np.mean(std))
    made = type(model)()
    made.CopyFrom(model)
    constants = graph.constants_of(model)
    if not first or image in {value.name for value in model.graph.output}:
        what = "is an output too" if first else "is read by nothing"
        raise ModelError(f"the input {image!r} {what}", expected="convolutions as its only readers", do=REMEDY)
    for node in first:
        _require_convolution(node, image)
    for weights in dict.fromkeys(node.input[1] for node in first):
        readers = [node for node in first if node.input[1] == weights]
        values = _scaled(constants.get(weights), readers, [kept / value for value in std])
        _replace(made, weights, values, {node.output[0] for node in readers})
    graph.check_onnx(made, "the graph with its std folded in")
    return made, kept, tuple(node.name or node.output[0] for node in first)


def _require_convolution(node: onnx.NodeProto, image: str) -> None:
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or list(node.input).count(image) != 1:
        raise ModelError(
            f"{node.op_type} {node.name or node.output[0]!r} reads the input {image!r}, and a std for each channel can "
            "be folded into a convolution alone",
            expected="convolutions as the only readers of the image",
            do=REMEDY,
        )


def _scaled(stored: onnx.TensorProto | None, readers: Sequence[onnx.NodeProto], factors: Sequence[float]) -> np.ndarray:
    """The weights [out, in / groups, …] times each input channel's factor, rounded once."""
    import onnx

    node = readers[0]
    name = node.name or node.output[0]
    if stored is None or stored.data_type != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"the weights of Conv {name!r} are not stored as float32 numbers", expected="an FP32 graph", do=REMEDY
        )
    weights = onnx.numpy_helper.to_array(stored)
    groups = {next((item.i for item in reader.attribute if item.name == "group"), 1) for reader in readers}
    count = groups.pop()
    if groups or weights.shape[1] * count != len(factors) or weights.shape[0] % count:
        raise ModelError(
            f"Conv {name!r} has weights {list(weights.shape)} in {count} groups, and std has {len(factors)} channels",
            expected="weights for as many channels",
            do=REMEDY,
        )
    by_group = np.asarray(factors, np.float64).reshape(count, 1, weights.shape[1], *(1,) * (weights.ndim - 2))
    grouped = weights.astype(np.float64).reshape(count, -1, *weights.shape[1:])
    made: np.ndarray = (grouped * by_group).reshape(weights.shape).astype(np.float32)
    return made


def _replace(model: onnx.ModelProto, old: str, values: np.ndarray, outputs: set[str]) -> None:
    """Give the convolutions with these ``outputs`` weights of their own, and drop the old where nothing reads them."""
    import onnx

    taken = {tensor.name for tensor in model.graph.initializer} | {old}
    new = next(name for number in range(len(taken) + 1) if (name := f"{old}/std{number or ''}") not in taken)
    for node in model.graph.node:
        if node.output[0] in outputs:
            node.input[1] = new
    if not any(old in reads(node) for node in model.graph.node):
        for listed in (model.graph.initializer, model.graph.input):
            for item in [item for item in listed if item.name == old]:
                listed.remove(item)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, new))
