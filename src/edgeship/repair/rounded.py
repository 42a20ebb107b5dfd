"""A graph beside its rounded form, in which the weights and biases of layers can be replaced while it is open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.prepare import graph
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.float_nodes import float_nodes
from edgeship.prepare.inferred_graph import select
from edgeship.prepare.quantize import QuantizeOptions, rounded_graph
from edgeship.repair.stepwise import Stepwise

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgeship.prepare.frame_checks import FrameBatch

    Array = NDArray[Any]

MATRICES = frozenset(("Conv", "Gemm", "MatMul"))


@dataclass
class Layer:
    """A layer with rounded input and rounded constant weights."""

    node: onnx.NodeProto
    """Of the FP32 graph."""
    weight: Array
    """As it is in the FP32 graph; later steps of a repair replace it."""
    scale: Array
    """Of the weights' grid, shaped to multiply with ``weight``."""
    bias: Array | None
    """One value for each output channel; None: the operator has no bias."""
    read: str
    """The rounded tensor that it reads."""
    gives: str
    """Its result in the rounded graph, before that is rounded."""

    @property
    def transposed(self) -> bool:
        """Whether a Gemm's weight is [outputs, inputs]."""
        return any(item.name == "transB" and item.i for item in self.node.attribute)

    def nearest(self) -> Array:
        """The weights, each rounded to the nearest step, in steps."""
        return np.clip(np.rint(self.weight.astype(np.float64) / self.scale), -127, 127)

    @property
    def axis(self) -> int:
        """The axis of the channels in its result."""
        return 1 if self.node.op_type == "Conv" else -1

    def mean_of(self, result: Array) -> Array:
        """The mean of a result for each row of the batch and channel: [rows, channels], float64."""
        if self.node.op_type == "Conv":
            return np.asarray(result.reshape(*result.shape[:2], -1).mean(axis=2, dtype=np.float64))
        return np.asarray(result.reshape(len(result), -1, result.shape[-1]).mean(axis=1, dtype=np.float64))


class RoundedGraph:
    """An FP32 graph and its Q/DQ graph for an engine, both gone through layer by layer on the same frames.

    Args:
        reference: The FP32 graph, with inferred names and types.
        calibration: Its ranges.
        few: Real frames, which ModelOpt runs once.
        options: How the graph is quantized.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        calibration: CalibrationCache,
        few: Sequence[FrameBatch],
        options: QuantizeOptions,
    ) -> None:
        kept = dict.fromkeys(select(reference, options.keep), "kept on request")
        proto = rounded_graph(reference, calibration, float_nodes(reference) | kept, few, options)
        self.layers = _layers(reference, proto)
        self._values: dict[str, Array] = {}
        for layer in self.layers:
            self.set_weight(layer, layer.nearest())
            if layer.bias is not None:
                self.set_bias(layer, layer.bias)
        _open_constants(proto, self.layers, self._values)
        nodes = [layer.node for layer in self.layers]
        self._rounded = Stepwise(proto, [layer.gives for layer in self.layers], [layer.read for layer in self.layers])
        self._float = Stepwise(reference, [node.output[0] for node in nodes], [node.input[0] for node in nodes])

    def begin(self, frames: Sequence[FrameBatch]) -> None:
        """Start at the first layer, with these frames."""
        for graph_ in (self._rounded, self._float):
            graph_.begin([feeds for _, feeds in frames])

    def inputs(self, layer: Layer) -> Iterator[tuple[Array, Array]]:
        """For each batch, what a layer reads, rounded and in FP32. All layers before it are finished."""
        rounded = self._rounded.values(layer.read, self._values)
        return zip(rounded, self._float.values(layer.node.input[0], {}), strict=True)

    def results(self, layer: Layer) -> list[tuple[Array, Array]]:
        """For each batch, a layer's result, rounded and in FP32. All layers before it are finished."""
        rounded = self._rounded.values(self._rounded.raw(layer.gives), self._values)
        right = self._float.values(self._float.raw(layer.node.output[0]), {})
        return list(zip(rounded, right, strict=True))

    def finish(self, layer: Layer, results: Sequence[tuple[Array, Array]]) -> None:
        """Go on behind a layer with these results."""
        self._rounded.finish(layer.gives, [rounded for rounded, _ in results])
        self._float.finish(layer.node.output[0], [right for _, right in results])

    def set_weight(self, layer: Layer, steps: Array) -> None:
        """Give a layer of the rounded graph other weights, in steps of its grid."""
        self._values[_weight_input(layer)] = (steps * layer.scale).astype(np.float32)

    def set_bias(self, layer: Layer, bias: Array) -> None:
        """Give a layer of the rounded graph another bias."""
        self._values[_bias_input(layer)] = bias.astype(np.float32)


def _weight_input(layer: Layer) -> str:
    return f"{layer.node.name}:weight"


def _bias_input(layer: Layer) -> str:
    return f"{layer.node.name}:bias"


def _layers(reference: onnx.ModelProto, proto: onnx.ModelProto) -> list[Layer]:
    """The layers whose weights and input are rounded, in execution order; constants that two layers share stay."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    uses = Counter(name for node in reference.graph.node for name in node.input)
    made = {name: node for node in proto.graph.node for name in node.output}
    there = {node.name: node for node in proto.graph.node}
    constants = graph.constants_of(proto)
    found = []
    for node in reference.graph.node:
        twin = there.get(node.name)
        if twin is None or node.op_type not in MATRICES or len(node.input) < 2 or uses[node.input[1]] != 1:
            continue
        rounding = made.get(twin.input[1])
        source = made.get(twin.input[0])
        if node.input[1] not in weights or rounding is None or rounding.op_type != "DequantizeLinear":
            continue
        if source is None or rounding.input[1] not in constants or node.input[0] in weights:
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        scale = numpy_helper.to_array(constants[rounding.input[1]]).astype(np.float64)
        bias = _bias(node, weight, weights)
        shaped = _shaped(rounding, scale, weight.ndim)
        found.append(Layer(node, weight, shaped, bias, twin.input[0], twin.output[0]))
    return found


def _shaped(node: onnx.NodeProto, scale: Array, dimensions: int) -> Array:
    """The scale of a DequantizeLinear, shaped to multiply with what it scales."""
    if scale.size == 1:
        return scale.reshape(())
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) % dimensions
    return scale.reshape([-1 if index == axis else 1 for index in range(dimensions)])


def _bias(node: onnx.NodeProto, weight: Array, weights: Mapping[str, onnx.TensorProto]) -> Array | None:
    """A convolution's or Gemm's bias, zeros where it has none; None where there is no such input, or it is computed."""
    from onnx import numpy_helper

    if node.op_type == "MatMul" or any(item.name == "beta" and item.f != 1.0 for item in node.attribute):
        return None
    outputs = len(weight)
    if node.op_type == "Gemm":
        outputs = weight.shape[0 if any(item.name == "transB" and item.i for item in node.attribute) else 1]
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(outputs, np.float32)
    if node.input[2] not in weights:
        return None
    values = numpy_helper.to_array(weights[node.input[2]])
    return values if values.shape == (outputs,) else None


def _open_constants(proto: onnx.ModelProto, layers: Sequence[Layer], values: Mapping[str, Array]) -> None:
    """Make the weights and biases of the layers inputs of the graph, in place."""
    from onnx import TensorProto, helper

    there = {node.name: node for node in proto.graph.node}
    for layer in layers:
        node = there[layer.node.name]
        node.input[1] = _weight_input(layer)
        if layer.bias is not None:
            while len(node.input) < 3:
                node.input.append("")
            node.input[2] = _bias_input(layer)
    proto.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in values.items()
    )
    for _ in range(2):  # the pairs of the constants, then what fed them
        used = {name for node in proto.graph.node for name in node.input} | {item.name for item in proto.graph.output}
        nodes = [
            node
            for node in proto.graph.node
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or used.intersection(node.output)
        ]
        proto.graph.ClearField("node")
        proto.graph.node.extend(nodes)


def write_layer(model: onnx.ModelProto, layer: Layer, weight: Array, bias: Array | None) -> None:
    """Give a layer of the FP32 graph other weights, and a bias of its own, in place."""
    from onnx import numpy_helper

    node = next(item for item in model.graph.node if item.name == layer.node.name)
    tensor = next(item for item in model.graph.initializer if item.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), tensor.name))
    if bias is None:
        return
    name = f"{node.name}:repaired_bias"
    present = next((item for item in model.graph.initializer if item.name == name), None)
    stored = numpy_helper.from_array(bias.astype(np.float32), name)
    if present is not None:
        present.CopyFrom(stored)
        return
    model.graph.initializer.append(stored)
    while len(node.input) < 3:
        node.input.append("")
    node.input[2] = name
