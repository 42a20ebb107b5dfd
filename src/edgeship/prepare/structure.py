"""A graph without the values of its weights: what other weights of the same network leave as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeship.files import sha256_bytes
from edgeship.prepare.large import without_initializers

if TYPE_CHECKING:
    import onnx

FLOATS = frozenset((1, 10, 11, 16))
"""TensorProto.DataType of float32, float16, float64 and bfloat16."""
WEIGHTED = frozenset((
    "Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "GRU", "Gather", "Gemm", "GroupNormalization",
    "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "Mul", "PRelu", "RNN", "Sub",
))  # fmt: skip
"""Operators that compute with learned values; of others, such as Resize and Clip, the values are part of the graph."""


def structure_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph less the values of its weights: nodes, attributes, names, notes, types and shapes stay.

    A weight is a floating-point initializer with axes that only operators of :data:`WEIGHTED` read. Whole numbers,
    scalars and the constants of other operators (a bound of Clip, a scale of Resize) count with their values.
    """
    return sha256_bytes(_without(model, _weights(model.graph)).SerializeToString(deterministic=True))


def _without(model: onnx.ModelProto, weights: set[str]) -> onnx.ModelProto:
    """The model with its weights as names, types and shapes; their values are never copied."""
    bare = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            bare.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            bare.graph.initializer.add().CopyFrom(tensor)
    return bare


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Names of the initializers that are weights."""
    found = {tensor.name for tensor in graph.initializer if tensor.data_type in FLOATS and len(tensor.dims)}
    return found - set(_otherwise_read(graph.node)) - {value.name for value in graph.output}


def _otherwise_read(nodes: Iterable[onnx.NodeProto]) -> Iterable[str]:
    """Names that operators beside those of :data:`WEIGHTED` read, in bodies too."""
    for node in nodes:
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            yield from node.input
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _otherwise_read(body.node)
