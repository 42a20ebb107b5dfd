"""Attention masks in a graph: tensors whose largest magnitudes mark what does not count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import Array

NO_VALUE = 1e8
"""A constant of at least this magnitude is not a value: -1e9, the lowest float32, infinity. It marks what does not
count."""
MASKED = -50.0
"""A constant at or below this, and never above zero, that reaches a Softmax is a mask too (Swin's is -100)."""
PASSING = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Where",
        "Concat",
        "Max",
        "Min",
        "Neg",
        "Expand",
        "Reshape",
        "Transpose",
        "Unsqueeze",
        "Squeeze",
        "Slice",
        "Gather",
        "Split",
        "Cast",
        "Identity",
        "Pad",
        "Tile",
        "Trilu",
        "Flatten",
    ]
)
"""Operators whose result is masked where an operand is."""
SOFTMAX = frozenset(("Softmax", "LogSoftmax"))


def masked_tensors(model: onnx.ModelProto) -> set[str]:
    """Tensors that hold an additive attention mask, or values covered by one; no range of theirs means anything."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    found: set[str] = set()
    for name, values in _constants(model, {name for name, nodes in readers.items() if _any_passing(nodes)}):
        lowest, highest = float(values.min()), float(values.max())
        hard = max(abs(lowest), abs(highest)) >= NO_VALUE
        if not hard and not (lowest <= MASKED and highest <= 0.0):
            continue
        reached, to_softmax = _spread(name, readers)
        if hard or to_softmax:
            found |= reached
    return found


def _any_passing(nodes: list[onnx.NodeProto]) -> bool:
    return any(node.op_type in PASSING for node in nodes)


def _constants(model: onnx.ModelProto, names: set[str]) -> Iterator[tuple[str, Array]]:
    """Constant float tensors among ``names``, and those that ConstantOfShape fills."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name in names and tensor.data_type in (1, 10, 11) and 0 not in tensor.dims:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "ConstantOfShape" and attribute.name == "value":
                values = numpy_helper.to_array(attribute.t)
                if values.dtype.kind == "f":
                    yield node.output[0], values


def _spread(start: str, readers: dict[str, list[onnx.NodeProto]]) -> tuple[set[str], bool]:
    """The tensors that a mask reaches, and whether a Softmax takes one of them."""
    reached: set[str] = set()
    waiting, softmax = [start], False
    while waiting:
        name = waiting.pop()
        for node in readers[name]:
            softmax = softmax or node.op_type in SOFTMAX
            if node.op_type not in PASSING or node.output[0] in reached:
                continue
            reached.update(node.output)
            waiting.extend(node.output)
    return reached, softmax
