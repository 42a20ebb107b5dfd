"""INT8 graphs for onnxruntime: Q/DQ pairs around every operator that it has an integer kernel for.

uint8 asymmetric activations, int8 symmetric weights, int32 biases. onnxruntime's own quantizer makes such graphs too;
it stops at grouped transposed convolutions and at biases that are not vectors, loses Gemm's beta, clamps a tensor that
is an output and feeds a ReLU, and gives a bias that two layers share the scale of one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeship.prepare.calibration_cache import UNLIMITED, CalibrationCache, lacking
from edgeship.prepare.inferred_graph import outputs_of
from edgeship.prepare.quantized_tensors import FUSED, SHARING, WEIGHTED, find_tensors, float_tensors, limits

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import Array

Placement = Literal["default", "products", "residual-float"]
"""Which operators get Q/DQ: all that have an integer kernel; products alone; all but the sums of residual branches."""
MOVING = (SHARING | {"Resize"}) - {"Identity", "Expand"}
"""Operators that onnxruntime runs on 8-bit values as they are: their results take the scale of what they read."""
ELEMENTWISE = frozenset(("Add", "Mul"))
UNARY = frozenset(("LeakyRelu", "Sigmoid", "GlobalAveragePool", "AveragePool"))
FLOAT_RESULT = frozenset(("MatMul", "Gemm"))
"""Products whose integer kernels can give float32: nothing is rounded where no 8-bit operator reads it."""
INT32 = float(2**30)
"""Largest quantized bias: its sum with the products stays within int32."""


def ort_graph(
    reference: onnx.ModelProto,
    calibration: CalibrationCache,
    left: dict[str, str],
    *,
    per_channel: bool = True,
    placement: Placement = "default",
) -> onnx.ModelProto:
    """The Q/DQ graph for onnxruntime, in memory.

    Args:
        reference: Names and types are inferred; it is not changed.
        left: Node name → why it stays in float; what this function leaves in float is added.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(reference)
    plan = _Plan(proto, calibration, left, placement)
    _Writer(proto, plan, per_channel).write()
    return proto


@dataclass
class _Plan:
    """Which nodes become integer kernels, and which tensors are rounded: name → the tensor whose range they take."""

    model: onnx.ModelProto
    calibration: CalibrationCache
    left: dict[str, str]
    placement: Placement
    nodes: set[str] = field(default_factory=set)
    roots: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.outputs = {value.name for value in graph.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self._floats = {value.name for value in _float32(self.model)} & float_tensors(self.model)
        self._shared = find_tensors(self.model).shared
        self._limits = limits(self.model)
        self._known = {*self.calibration.ranges, *self.calibration.scales}
        self._shapes = _shapes(self.model)
        self._missing: dict[str, None] = {}
        for node in graph.node:
            if self._integer(node):
                self.nodes.add(node.name)
        for node in graph.node:
            if node.name in self.nodes:
                self._round(node)
        self._follow_movement()
        if self._missing:
            raise lacking(self.calibration, self._missing)

    def _integer(self, node: onnx.NodeProto) -> bool:
        """Whether a node gets an integer kernel; the reason of a product that gets none is noted."""
        kinds = WEIGHTED if self.placement == "products" else WEIGHTED | ELEMENTWISE | UNARY | {"Concat"}
        if node.op_type not in kinds or node.name in self.left or node.domain not in ("", "ai.onnx"):
            return False
        if self.placement == "residual-float" and node.op_type == "Add" and not self._constant_operand(node):
            return False
        why = self._obstacle(node)
        if why and node.op_type in WEIGHTED:
            self.left[node.name] = why
        return not why

    def _constant_operand(self, node: onnx.NodeProto) -> bool:
        return any(name in self.constants for name in node.input)

    def _obstacle(self, node: onnx.NodeProto) -> str:
        """Why a node cannot be an integer kernel; empty: it can."""
        if node.op_type == "ConvTranspose":
            return "onnxruntime has no integer kernel for ConvTranspose"
        activations = [name for name in self.operands(node) if name not in self.constants]
        if not activations or any(name not in self._floats for name in [*activations, node.output[0]]):
            return "reads or writes something other than a float32 activation"
        if node.op_type in ("Conv", "Gemm"):
            if node.input[1] not in self.constants or node.input[0] in self.constants:
                return "its weight is computed, not constant"
            if len(node.input) > 2 and node.input[2]:
                return self._bias_obstacle(node)
        if node.op_type == "MatMul" and any(self._shapes.get(name, 2) < 2 for name in node.input):
            return "a product with a vector"
        return ""

    def _bias_obstacle(self, node: onnx.NodeProto) -> str:
        bias = self.constants.get(node.input[2])
        if bias is None:
            return "its bias is computed, not constant"
        if node.op_type == "Gemm" and (len(bias.dims) != 1 or bias.dims[0] != outputs_of(node, self.constants)):
            return "its bias is not one value for each output"
        return ""

    def operands(self, node: onnx.NodeProto) -> list[str]:
        """The inputs that hold data: no biases, axes, bounds or sizes."""
        if node.op_type in ("Conv", "ConvTranspose"):
            return [node.input[0]]
        if node.op_type in ("Gemm", "MatMul"):
            return [name for name in node.input[:2] if node.op_type == "MatMul" or name == node.input[0]]
        return (
            list(node.input)
            if node.op_type == "Concat"
            else list(node.input[: 2 if node.op_type in ELEMENTWISE else 1])
        )

    def _round(self, node: onnx.NodeProto) -> None:
        """Mark what an integer kernel reads and writes; a fused activation's result in place of the node's own."""
        for name in self.operands(node):
            if name not in self.constants:
                self._mark(name)
        result = self.fused(node)
        if node.op_type not in FLOAT_RESULT or any(reader.name in self.nodes for reader in self.readers[result]):
            self._mark(result)

    def fused(self, node: onnx.NodeProto) -> str:
        """The result of the ReLU or Clip that alone reads a node's result, else the node's own."""
        result = str(node.output[0])
        readers = self.readers[result]
        if result in self.outputs or len(readers) != 1 or readers[0].op_type not in FUSED:
            return result
        behind = readers[0]
        return str(behind.output[0]) if behind.name not in self.left and behind.output[0] in self._floats else result

    def _mark(self, name: str) -> None:
        root = self._root(name)
        if self.bounds(root) is None:
            self._missing[root] = None
        self.roots[name] = root

    def _root(self, name: str) -> str:
        """The tensor whose range ``name`` takes: through data movement back to where the values were made."""
        seen = set()
        while name not in seen:
            seen.add(name)
            node = self.producers.get(name)
            if node is None or node.op_type not in MOVING or node.input[0] not in self._floats:
                break
            name = node.input[0]
        return name if name in self._known else self._shared.get(name, name)

    def bounds(self, root: str) -> tuple[float, float] | None:
        """(low, high) of an activation."""
        return self.calibration.bounds(root, self._limits.get(root, UNLIMITED))

    def _follow_movement(self) -> None:
        """Let 8-bit values pass through data movement as they are: forwards from what is rounded, and backwards where
        nothing else reads the values that are moved."""
        moves = [
            node
            for node in self.model.graph.node
            if node.op_type in MOVING and node.input[0] in self._floats and node.name not in self.left
        ]
        moving = {node.name for node in moves} | self.nodes
        for node in reversed(moves):
            source = node.input[0]
            wanted = any(name in self.roots for name in node.output)
            if wanted and source not in self.roots and all(item.name in moving for item in self.readers[source]):
                self._mark(source)
        for node in moves:
            if node.input[0] in self.roots:
                for name in node.output:
                    if name and name in self._floats:
                        self._mark(name)


def _shapes(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor → its number of axes, where it is known."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    shaped = [value for value in values if value.type.tensor_type.HasField("shape")]
    found = {value.name: len(value.type.tensor_type.shape.dim) for value in shaped}
    return found | {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}


def _float32(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    return [value for value in values if value.type.tensor_type.elem_type == 1]


class _Writer:
    """Writes the Q/DQ pairs and 8-bit constants of a plan into its graph."""

    def __init__(self, model: onnx.ModelProto, plan: _Plan, per_channel: bool) -> None:
        self._graph = model.graph
        self._plan = plan
        self._per_channel = per_channel
        self._inputs: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._added: dict[str, Array] = {}

    def write(self) -> None:
        """Rewrite the graph."""
        for value in self._graph.input:
            if value.name in self._plan.roots:
                self._inputs[value.name] = self._pair(value.name, value.name, f"{value.name}_DequantizeLinear_Output")
        for node in self._graph.node:
            after: list[str] = []
            if node.name in self._plan.nodes:
                self._integer(node)
            for slot, name in enumerate(node.input):
                if name in self._inputs and self._reads_rounded(node):
                    node.input[slot] = self._inputs[name]
            for slot, name in enumerate(node.output):
                if name in self._plan.roots:
                    node.output[slot] = f"{name}_QuantizeLinear_Input"
                    after.append(name)
            self._nodes.append(node)
            for name in after:
                self._pair(name, f"{name}_QuantizeLinear_Input", name)
        used = {name for node in self._nodes for name in node.input} | self._plan.outputs | _outer_names(self._nodes)
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        nodes = list(self._nodes)
        self._graph.ClearField("node")
        self._graph.ClearField("initializer")
        self._graph.ClearField("value_info")
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(kept)

    def _reads_rounded(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads the rounded values of a graph input: float layers read the input as it is."""
        return node.name in self._plan.nodes or (node.op_type in MOVING and node.output[0] in self._plan.roots)

    def _pair(self, name: str, source: str, target: str) -> str:
        """Round ``source`` into ``target``, on the grid of the tensor ``name``."""
        low, high = self._plan.bounds(self._plan.roots[name]) or (0.0, 0.0)
        scale, zero = grid(low, high)
        tail = self._plan.roots[name]
        scales = [self._constant(f"{tail}_scale", scale), self._constant(f"{tail}_zero_point", zero)]
        self._append("QuantizeLinear", [source, *scales], f"{name}_QuantizeLinear_Output")
        self._append("DequantizeLinear", [f"{name}_QuantizeLinear_Output", *scales], target)
        return target

    def _append(self, operator: str, inputs: list[str], output: str, axis: int | None = None) -> None:
        from onnx import helper

        node = helper.make_node(operator, inputs, [output], f"{output}_{operator}")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)

    def _constant(self, name: str, values: Array, *, own: bool = False) -> str:
        """The name of an initializer; another value under a known name gets one of its own.

        ``own``: never shared. onnxruntime 1.32 converts int8 weights for exact arithmetic node by node, and refuses to
        convert one twice.
        """
        from onnx import numpy_helper

        while name in self._added and (own or not np.array_equal(self._added[name], values)):
            name += "_"
        if name not in self._added:
            self._added[name] = values
            self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _integer(self, node: onnx.NodeProto) -> None:
        """Give a node 8-bit constants, and an int32 bias."""
        constants = self._plan.constants
        if node.op_type in ("Conv", "Gemm"):
            self._weighted(node)
            return
        for slot, name in enumerate(node.input):
            if name in constants:
                per_channel = node.op_type == "MatMul" and slot == 1
                node.input[slot] = self._weight(node, name) if per_channel else self._operand(node, slot, name)

    def _weighted(self, node: onnx.NodeProto) -> None:
        from onnx import numpy_helper

        weight = numpy_helper.to_array(self._plan.constants[node.input[1]]).astype(np.float64)
        axis = self._axis(node, weight.ndim)
        scale = _weight_scale(weight, axis)
        low, high = self._plan.bounds(self._plan.roots[node.input[0]]) or (0.0, 0.0)
        step = float(grid(low, high)[0])
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = numpy_helper.to_array(self._plan.constants[node.input[2]]).astype(np.float64)
            least = np.abs(bias) / (step * INT32)
            scale = np.maximum(scale, least if scale.ndim else least.max(initial=0.0))
        node.input[1] = self._rounded_weight(node, node.input[1], weight, scale, axis)
        if bias is not None:
            scales = (scale.astype(np.float32).astype(np.float64) * step).astype(np.float32)
            values = np.rint(bias / scales).astype(np.int32)
            names = [
                self._constant(f"{node.input[2]}_quantized", values),
                self._constant(f"{node.input[2]}_scale", np.asarray(scales)),
                self._constant(f"{node.input[2]}_zero_point", np.zeros(scales.shape, np.int32)),
            ]
            rounded = f"{node.input[2]}_of_{node.name}"
            self._append("DequantizeLinear", names, rounded, 0 if scales.ndim else None)
            node.input[2] = rounded

    def _weight(self, node: onnx.NodeProto, name: str) -> str:
        """The constant right side of a MatMul."""
        from onnx import numpy_helper

        weight = numpy_helper.to_array(self._plan.constants[name]).astype(np.float64)
        axis = self._axis(node, weight.ndim)
        return self._rounded_weight(node, name, weight, _weight_scale(weight, axis), axis)

    def _axis(self, node: onnx.NodeProto, dimensions: int) -> int | None:
        return channel_axis(node, dimensions) if self._per_channel else None

    def _rounded_weight(self, node: onnx.NodeProto, name: str, weight: Array, scale: Array, axis: int | None) -> str:
        stored = scale.astype(np.float32)
        shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
        values = np.rint(weight / stored.astype(np.float64).reshape(shape if axis is not None else ()))
        names = [
            self._constant(f"{name}_quantized", np.clip(values, -127, 127).astype(np.int8), own=True),
            self._constant(f"{name}_scale", stored),
            self._constant(f"{name}_zero_point", np.zeros(stored.shape, np.int8), own=True),
        ]
        rounded = f"{name}_of_{node.name}"
        self._append("DequantizeLinear", names, rounded, axis)
        return rounded

    def _operand(self, node: onnx.NodeProto, slot: int, name: str) -> str:
        """A constant operand on the uint8 grid of its own values."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self._plan.constants[name]).astype(np.float64)
        scale, zero = grid(float(values.min(initial=0.0)), float(values.max(initial=0.0)))
        rounded = np.clip(np.rint(values / float(scale)) + int(zero), 0, 255).astype(np.uint8)
        names = [
            self._constant(f"{name}_quantized", rounded),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero_point", zero),
        ]
        output = f"{name}_of_{node.name}_{slot}"
        self._append("DequantizeLinear", names, output)
        return output


def grid(low: float, high: float) -> tuple[Array, Array]:
    """(scale float32, zero point uint8) of ``[low, high]`` with an exact zero; ±1 for a tensor that was always zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < float(np.finfo(np.float32).tiny) * 255 or not math.isfinite(high - low):
        low, high = -1.0, 1.0
    scale = np.float32((high - low) / 255)
    return np.asarray(scale), np.asarray(np.clip(round(-low / float(scale)), 0, 255), np.uint8)


def channel_axis(node: onnx.NodeProto, dimensions: int) -> int | None:
    """The axis of a weight's output channels that integer kernels take scales along; None: one scale for all."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        return 0 if transposed else 1
    return 1 if node.op_type == "MatMul" and dimensions == 2 else None


def _weight_scale(weight: Array, axis: int | None) -> Array:
    """Symmetric int8 scale, for each channel along ``axis`` or for all; 1 for channels of zeros."""
    over = tuple(index for index in range(weight.ndim) if index != axis)
    peak = np.abs(weight).max(axis=over if axis is not None else None, initial=0.0)
    tiny = float(np.finfo(np.float32).tiny) * 127
    return np.asarray(np.where(peak > tiny, peak / 127, 1.0))


def _outer_names(nodes: list[onnx.NodeProto]) -> set[str]:
    """Names that the bodies of loops and conditions read."""
    found: set[str] = set()
    for node in nodes:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                inner = list(body.node)
                found.update(name for item in inner for name in item.input)
                found.update(value.name for value in body.output)
                found |= _outer_names(inner)
    return found
