"""What a deployed Q/DQ graph rounds: read from the graph itself, so that training rounds the same and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeship.prepare.quantized_tensors import SHARING, WEIGHTED, find_tensors, float_tensors

if TYPE_CHECKING:
    import onnx

RENAMED = "_QuantizeLinear_Input"
"""What the writer for onnxruntime adds to the name of a tensor before it is rounded."""


@dataclass(frozen=True)
class Grid:
    """An 8-bit grid: ``scale * (q - zero)`` for q in ``low..high``. ``root`` is the tensor whose range it is."""

    root: str
    scale: float
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Rounded:
    """A rounded activation.

    ``readers`` are the nodes that read the rounded values; None: every reader does, an output of the graph too.
    """

    grid: Grid
    readers: frozenset[str] | None


@dataclass(frozen=True)
class Rounding:
    """The activations that a Q/DQ graph rounds, by name in the reference, and the nodes with an 8-bit weight.

    ``weights``: node name → whether each output channel has a scale of its own.
    """

    activations: Mapping[str, Rounded]
    weights: Mapping[str, bool]


def read_rounding(proto: onnx.ModelProto, reference: onnx.ModelProto) -> Rounding:
    """What ``proto``, made from ``reference`` (names and types inferred), rounds to 8 bits."""
    return _Reader(proto, reference).read()


class _Reader:
    def __init__(self, proto: onnx.ModelProto, reference: onnx.ModelProto) -> None:
        self._proto, self._reference = proto, reference
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._origin = {name: node for node in proto.graph.node for name in node.output}
        self._floats = float_tensors(reference)
        self._shared = find_tensors(reference).shared

    def read(self) -> Rounding:
        """Everything."""
        pairs: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        grids: dict[str, Grid] = {}
        for node in self._proto.graph.node:
            quantizer = self._origin.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if quantizer is None or quantizer.op_type != "QuantizeLinear":
                continue
            name = self._source(quantizer.input[0])
            if name in self._floats:
                pairs[name].append(node)
                grids[name] = self._grid(name, quantizer)
        activations = {name: Rounded(grids[name], self._readers(name, nodes)) for name, nodes in pairs.items()}
        return Rounding(activations, self._weights())

    def _source(self, name: str) -> str:
        """The tensor of the reference that a quantizer reads."""
        while name not in self._floats:
            node = self._origin.get(name)
            if name.endswith(RENAMED):
                return name.removesuffix(RENAMED)
            if node is None or node.op_type != "Cast":
                break
            name = node.input[0]
        return name

    def _grid(self, name: str, quantizer: onnx.NodeProto) -> Grid:
        from onnx import numpy_helper

        scale = float(numpy_helper.to_array(self._constants[quantizer.input[1]]).item())
        zero = numpy_helper.to_array(self._constants[quantizer.input[2]])
        kind = np.iinfo(zero.dtype)
        root = self._shared.get(name, name)
        return Grid(root, scale, int(zero.item()), int(kind.min), int(kind.max))

    def _readers(self, name: str, pairs: list[onnx.NodeProto]) -> frozenset[str] | None:
        """The nodes that read the rounded values of a tensor; None where no one reads it unrounded."""
        values = {node.output[0] for node in pairs}
        for node in self._proto.graph.node:
            if node.op_type == "Cast" and node.input[0] in values:
                values.update(node.output)
        found = {node.name for node in self._proto.graph.node if values.intersection(node.input)}
        whole = {node.name for node in self._reference.graph.node if name in node.input} <= found
        outputs = {value.name for value in self._reference.graph.output}
        return None if whole and (name not in outputs or name in values) else frozenset(found)

    def _weights(self) -> dict[str, bool]:
        constants = {tensor.name for tensor in self._reference.graph.initializer}
        weighted = {
            node.name
            for node in self._reference.graph.node
            if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants
        }
        found = {}
        for node in self._proto.graph.node:
            if node.name not in weighted:
                continue
            made = self._origin.get(node.input[1])
            while made is not None and made.op_type in ("Cast", *SHARING):
                made = self._origin.get(made.input[0])
            if made is not None and made.op_type == "DequantizeLinear":
                scale = self._constants.get(made.input[1])
                found[node.name] = scale is None or len(scale.dims) > 0
        return found
