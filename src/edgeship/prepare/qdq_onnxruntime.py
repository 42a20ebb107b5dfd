"""INT8 graphs for onnxruntime: Q/DQ pairs around every operator that it has an integer kernel for.

uint8 asymmetric activations, int8 symmetric weights, int32 biases. onnxruntime's own quantizer makes such graphs too;
it stops at grouped transposed convolutions and at biases that are not vectors, loses Gemm's beta, clamps a tensor that
is an output and feeds a ReLU, and gives a bias that two layers share the scale of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeship.engines.ort import arithmetic
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.integer_plan import IntegerPlan
from edgeship.prepare.large import without_initializers
from edgeship.prepare.quantized_tensors import MOVING, Placement

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import Array

INT32 = float(2**30)
"""Largest quantized bias: its sum with the products stays within int32."""
INT8, INT7 = 127, 64
"""Largest quantized weights. Two products of uint8 with 64 add up to 32,640, which fits into 16 bits; with 127 they do
not, and kernels that add pairs in 16 bits (x86 without VNNI) saturate."""


@dataclass(frozen=True)
class OrtForm:
    """What a Q/DQ graph for onnxruntime looks like.

    ``reduced_range``: weights of 7 bits, and a mark that the graph needs no exact arithmetic.
    """

    per_channel: bool = True
    placement: Placement = "default"
    reduced_range: bool = False


@dataclass
class WeightGrids:
    """8-bit forms of constant weights, which graphs have in common that differ in their activations."""

    _scales: dict[tuple[str, int | None, int], Array] = field(default_factory=dict)
    _rounded: dict[tuple[str, int | None, int, bytes], Array] = field(default_factory=dict)

    def scale(self, tensor: onnx.TensorProto, axis: int | None, largest: int) -> Array:
        """Symmetric scale up to the integer ``largest``, for each channel along ``axis`` or for all; 1 for zeros."""
        key = (tensor.name, axis, largest)
        if key not in self._scales:
            self._scales[key] = _weight_scale(_values(tensor), axis, largest)
        return self._scales[key]

    def rounded(self, tensor: onnx.TensorProto, scale: Array, axis: int | None, largest: int) -> Array:
        """int8 values of a weight by a float32 scale."""
        key = (tensor.name, axis, largest, scale.tobytes())
        if key not in self._rounded:
            shape = [-1 if index == axis else 1 for index in range(len(tensor.dims))]
            values = _values(tensor)
            values /= scale.astype(np.float64).reshape(shape if axis is not None else ())
            self._rounded[key] = np.clip(np.rint(values, out=values), -largest, largest).astype(np.int8)
        return self._rounded[key]


def _values(tensor: onnx.TensorProto) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor).astype(np.float64)


def ort_graph(
    reference: onnx.ModelProto,
    calibration: CalibrationCache,
    left: dict[str, str],
    form: OrtForm | None = None,
    grids: WeightGrids | None = None,
) -> onnx.ModelProto:
    """The Q/DQ graph for onnxruntime, in memory.

    Args:
        reference: Names and types are inferred; it is not changed.
        left: Node name → why it stays in float; what this function leaves in float is added.
        grids: What other graphs of the same reference have rounded already.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
    """
    import onnx

    form = form or OrtForm()
    proto = without_initializers(reference)
    plan = IntegerPlan(reference, calibration, left, form.placement)
    _Writer(proto, plan, form, grids or WeightGrids()).write()
    if form.reduced_range:
        onnx.helper.set_model_props(
            proto, {**{entry.key: entry.value for entry in proto.metadata_props}, arithmetic.KEY: arithmetic.REDUCED}
        )
    return proto


class _Writer:
    """Writes the Q/DQ pairs and 8-bit constants of a plan into its graph."""

    def __init__(self, model: onnx.ModelProto, plan: IntegerPlan, form: OrtForm, grids: WeightGrids) -> None:
        self._graph = model.graph
        self._grids = grids
        self._plan = plan
        self._per_channel = form.per_channel
        self._peak = INT7 if form.reduced_range else INT8
        self._inputs: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._added: dict[str, Array] = {}
        self._last: dict[str, str] = {}
        """The name that a constant got last: where many nodes share a weight, the next one begins there."""

    def write(self) -> None:
        """Rewrite the graph."""
        from onnx import numpy_helper

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
        kept = [tensor for tensor in self._plan.model.graph.initializer if tensor.name in used]
        kept += [numpy_helper.from_array(values, name) for name, values in self._added.items() if name in used]
        nodes = list(self._nodes)
        self._graph.ClearField("node")
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
        first = name
        name = self._last.get(first, first) if own else first
        while name in self._added and (own or not np.array_equal(self._added[name], values)):
            name += "_"
        self._last[first] = name
        self._added.setdefault(name, values)
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

        weight = self._plan.constants[node.input[1]]
        axis = self._axis(node, len(weight.dims))
        scale = self._grids.scale(weight, axis, self._peak)
        low, high = self._plan.bounds(self._plan.roots[node.input[0]]) or (0.0, 0.0)
        step = float(grid(low, high)[0])
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = numpy_helper.to_array(self._plan.constants[node.input[2]]).astype(np.float64)
            least = np.abs(bias) / (step * INT32)
            scale = np.maximum(scale, least if scale.ndim else least.max(initial=0.0))
        node.input[1] = self._rounded_weight(node, weight, scale, axis)
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
        weight = self._plan.constants[name]
        axis = self._axis(node, len(weight.dims))
        return self._rounded_weight(node, weight, self._grids.scale(weight, axis, self._peak), axis)

    def _axis(self, node: onnx.NodeProto, dimensions: int) -> int | None:
        return channel_axis(node, dimensions) if self._per_channel else None

    def _rounded_weight(self, node: onnx.NodeProto, weight: onnx.TensorProto, scale: Array, axis: int | None) -> str:
        name, stored = weight.name, scale.astype(np.float32)
        values = self._grids.rounded(weight, stored, axis, self._peak)
        names = [
            self._constant(f"{name}_quantized", values, own=True),
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


def _weight_scale(weight: Array, axis: int | None, largest: int) -> Array:
    """Symmetric scale up to the integer ``largest``, for each channel along ``axis`` or for all; 1 for zeros."""
    over = tuple(index for index in range(weight.ndim) if index != axis)
    peak = np.abs(weight).max(axis=over if axis is not None else None, initial=0.0)
    tiny = float(np.finfo(np.float32).tiny) * largest
    return np.asarray(np.where(peak > tiny, peak / largest, 1.0))


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
