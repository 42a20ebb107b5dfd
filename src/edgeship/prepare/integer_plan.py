"""What onnxruntime computes in integers: which nodes get integer kernels, and which tensors are rounded to 8 bits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeship.prepare.calibration_cache import UNLIMITED, CalibrationCache, lacking
from edgeship.prepare.inferred_graph import outputs_of
from edgeship.prepare.quantized_tensors import (
    FUSED,
    MOVING,
    WEIGHTED,
    Placement,
    find_tensors,
    float_tensors,
    idle_joins,
    limits,
)

if TYPE_CHECKING:
    import onnx

ELEMENTWISE = frozenset(("Add", "Mul"))
UNARY = frozenset(("LeakyRelu", "Sigmoid", "GlobalAveragePool", "AveragePool"))
FLOAT_RESULT = frozenset(("MatMul", "Gemm"))
"""Products whose integer kernels can give float32: nothing is rounded where no 8-bit operator reads it."""


@dataclass
class IntegerPlan:
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
        self.nodes -= idle_joins(self.model, self.nodes)
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
