"""Which values of a tensor the activation behind it tells apart: steps of an 8-bit grid beyond them are wasted.

A HardSwish gives 0 for everything below -3, and its input often reaches far below: with the range cut there, the same
256 steps are spent on what is left. Nothing is lost, because the cut values give the same result.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Range = tuple[float, float]
ALL: Range = (-math.inf, math.inf)
SILU_LOWEST = -10.0
"""Below, x * sigmoid(x) lies between -0.0005 and 0."""
GELU_LOWEST = -5.0
"""Below, it lies between -0.0000015 and 0."""
STEPS = 253
"""Of an 8-bit grid, less one at each end."""


def needed_ranges(model: onnx.ModelProto) -> dict[str, Range]:
    """Tensor → (lowest, highest) value beyond which all that reads it answers the same.

    Found for HardSwish, HardSigmoid, SiLU, GELU, Relu and Clip, written as one operator or as their parts, also behind
    a multiplication or addition of one constant. A tensor that is an output, or that anything else reads, is left out.
    """
    return _Finder(model).find()


class _Finder:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._small = {tensor.name: tensor for tensor in model.graph.initializer if math.prod(tensor.dims) == 1}
        self._outputs = {value.name for value in model.graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._found: dict[str, Range] = {}

    def find(self) -> dict[str, Range]:
        """All of them; in reversed order, so that what stands behind is known."""
        for node in reversed(self._graph.node):
            for name in node.output:
                if name and name not in self._outputs:
                    needed = self._needed(name)
                    if needed != ALL:
                        self._found[name] = needed
        return self._found

    def _needed(self, name: str) -> Range:
        readers = self._readers[name]
        if any(node.domain not in ("", "ai.onnx") for node in readers):
            return ALL
        if len(readers) == 1:
            return self._by_one(name, readers[0])
        return self._by_gate(name, readers) if len(readers) == 2 else ALL

    def _by_one(self, name: str, node: onnx.NodeProto) -> Range:
        if node.input[0] == name:
            if node.op_type == "HardSwish":
                return (-3.0, math.inf)
            if node.op_type == "HardSigmoid":
                return self._hard_sigmoid(node)
            if node.op_type == "Relu":
                return (0.0, math.inf)
            if node.op_type == "Gelu":
                return (GELU_LOWEST, math.inf)
            if node.op_type == "Clip":
                return self._clip(node)
        return self._behind_constant(name, node)

    def _by_gate(self, name: str, readers: list[onnx.NodeProto]) -> Range:
        """The tensor times a gate that is made from it and is 0 below some value."""
        product = next((node for node in readers if node.op_type == "Mul"), None)
        other = next((node for node in readers if node is not product), None)
        if product is None or other is None or other.op_type == "Mul":
            return ALL
        gate = other.output[0]
        if other.op_type == "Add":  # x * clip(x + 3, 0, 6), then divided by 6
            clips = self._readers[gate]
            if len(clips) != 1 or clips[0].op_type != "Clip" or self._clip(clips[0])[0] != 0.0:
                return ALL
            gate = clips[0].output[0]
        if set(product.input) != {name, gate} or self._readers[gate] != [product] or gate in self._outputs:
            return ALL
        if other.op_type == "Sigmoid":
            return (SILU_LOWEST, math.inf)
        if other.op_type == "HardSigmoid":
            return (self._hard_sigmoid(other)[0], math.inf)
        shift = self._constant(other, name) if other.op_type == "Add" else None
        return ALL if shift is None else (-shift, math.inf)

    def _behind_constant(self, name: str, node: onnx.NodeProto) -> Range:
        """Through the addition of, or the multiplication with, one constant."""
        value = self._constant(node, name)
        behind = self._found.get(node.output[0]) if node.output[0] not in self._outputs else None
        if value is None or behind is None:
            return ALL
        low, high = behind
        if node.op_type == "Add":
            return (low - value, high - value)
        if node.op_type == "Sub" and node.input[0] == name:
            return (low + value, high + value)
        factor = 1.0 / value if node.op_type == "Div" and node.input[0] == name and value else value
        if node.op_type not in ("Mul", "Div") or (node.op_type == "Div" and node.input[0] != name) or not factor:
            return ALL
        ends = (low / factor, high / factor)
        return (min(ends), max(ends))

    def _constant(self, node: onnx.NodeProto, name: str) -> float | None:
        """The one number beside ``name`` among a node's two operands."""
        others = [item for item in node.input if item != name]
        if len(node.input) != 2 or len(others) != 1 or others[0] not in self._small:
            return None
        return self._number(others[0])

    def _number(self, name: str) -> float:
        from onnx import numpy_helper

        return float(numpy_helper.to_array(self._small[name]).item())

    def _clip(self, node: onnx.NodeProto) -> Range:
        names = [*node.input[1:], "", ""][:2]
        if any(name and name not in self._small for name in names):
            return ALL
        low, high = (self._number(name) if name else end for name, end in zip(names, ALL, strict=True))
        return (low, high)

    def _hard_sigmoid(self, node: onnx.NodeProto) -> Range:
        settings = {item.name: item.f for item in node.attribute}
        alpha, beta = settings.get("alpha", 0.2), settings.get("beta", 0.5)
        return (-beta / alpha, (1.0 - beta) / alpha) if alpha > 0 else ALL


def within(bounds: Range, needed: Range) -> Range:
    """The part of a range that is needed, and a step more: the last value of a grid may lie half a step off.

    Zero stays inside.
    """
    low, high = max(bounds[0], min(needed[0], 0.0)), min(bounds[1], max(needed[1], 0.0))
    if low >= high:
        return bounds
    step = (high - low) / STEPS
    return max(bounds[0], low - step), min(bounds[1], high + step)
