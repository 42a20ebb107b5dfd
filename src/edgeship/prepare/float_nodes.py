"""Nodes that quantization leaves in float on any engine, and why: attention masks, sampling coordinates, rankings,
recurrent layers, bodies of loops, operators that are not ONNX's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeship.prepare.masks import masked_tensors
from edgeship.prepare.quantized_tensors import COMPUTING, WEIGHTED, float_tensors

if TYPE_CHECKING:
    import onnx

RANKING = frozenset(("TopK", "CumSum"))
"""256 levels leave ties in a ranking of thousands."""
RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
PRODUCTS = WEIGHTED | RECURRENT | {"Einsum", "DeformConv", "Attention"}
"""Operators that multiply matrices: what INT8 is for."""
COORDINATES = {
    "GridSample": (1,),
    "DeformConv": (1,),
    "RoiAlign": (1,),
    "MaxRoiPool": (1,),
    "NonMaxSuppression": (0, 1),
}
"""Operator → its inputs that hold places in an image: 256 levels over an image are coarser than a pixel."""
SMALL_PRODUCT = 16
"""A product over fewer terms than this between coordinates (an affine map) is coordinate arithmetic too."""


def float_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """Node name → why no engine should compute it in INT8. ``model`` has named nodes and inferred types."""
    found: dict[str, str] = {}
    floats = float_tensors(model)
    masked = masked_tensors(model)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            found[node.name] = f"an operator of {node.domain}"
        elif node.op_type in RECURRENT:
            found[node.name] = "recurrent: no engine here has an INT8 kernel for it"
        elif node.op_type in RANKING:
            found[node.name] = "a ranking: 256 levels leave ties"
        elif node.op_type in COMPUTING and masked.intersection((*node.input, *node.output)):
            found[node.name] = "holds an attention mask: no 8-bit range covers masked and other values"
        elif node.op_type == "Gemm" and _scaled(node):
            found[node.name] = "its alpha or beta scales a computed operand"
        elif node.op_type in ("Einsum", "DeformConv", "Attention"):
            found[node.name] = f"{node.op_type} has no quantized form"
        elif node.op_type in PRODUCTS and node.output[0] not in floats:
            found[node.name] = "does not compute in float32"
    for name in coordinate_nodes(model):
        found.setdefault(name, "computes coordinates: 256 levels are coarser than a pixel")
    for name, (owner, operator) in nested_products(model).items():
        found[name] = f"inside the {operator} {owner}"
    return found


def _scaled(node: onnx.NodeProto) -> bool:
    """Whether a Gemm's alpha or beta was not folded into a constant: quantizers lose it."""
    return any(attribute.name in ("alpha", "beta") and attribute.f != 1.0 for attribute in node.attribute)


def nested_products(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Products in the bodies of loops and conditions: name → (name, operator) of the node that holds the body."""
    found: dict[str, tuple[str, str]] = {}
    for node in model.graph.node:
        for inner in _bodies(node):
            if inner.op_type in PRODUCTS:
                found[f"{node.name}/{inner.name or inner.output[0]}"] = (node.name, node.op_type)
    return found


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield inner
                yield from _bodies(inner)


def coordinate_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that compute places in an image, back to the layers that predict them."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in [*model.graph.value_info, *model.graph.input]:
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(axis.dim_value if axis.HasField("dim_value") else 0 for axis in dims)
    found: set[str] = set()
    waiting = [
        node.input[slot]
        for node in model.graph.node
        for slot in COORDINATES.get(node.op_type, ())
        if slot < len(node.input)
    ]
    seen: set[str] = set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in WEIGHTED:
            terms = shapes.get(node.input[0], ())[-1:]
            small = node.op_type in ("MatMul", "Gemm") and terms and 0 < terms[0] < SMALL_PRODUCT
            if not small:
                continue
        found.add(node.name)
        waiting.extend(node.input)
    return found


def is_product(node: onnx.NodeProto) -> bool:
    """Whether a node multiplies matrices."""
    return node.op_type in PRODUCTS or node.op_type in ("FusedConv", "FusedGemm", "FusedMatMul", "MultiHeadAttention")
