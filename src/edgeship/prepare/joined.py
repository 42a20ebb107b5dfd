"""Outputs that join tensors of different kinds, as boxes in pixels and scores: which value comes from which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeship.prepare.quantized_tensors import SHARING, float_tensors
from edgeship.prepare.running import Running

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import Array

MOVING = (SHARING | {"Concat"}) - {"MaxPool"}
"""Operators whose results are values of their inputs at other places."""


@dataclass(frozen=True)
class Joined:
    """An output, and the tensors whose values stand in it."""

    output: str
    parts: tuple[str, ...]
    _tail: onnx.ModelProto
    """From the parts to the output."""

    def places(self, values: Mapping[str, Array]) -> Array:
        """The number of its part for each value of the output, float32 in the output's shape.

        ``values``: the parts on the same frame.
        """
        numbered = {name: np.full(values[name].shape, number, np.float32) for number, name in enumerate(self.parts)}
        return Running(self._tail, optimize=False).run([self.output], numbered)[0]


def find_joined(model: onnx.ModelProto) -> tuple[Joined, ...]:
    """The float32 outputs of ``model`` (names and types inferred) that join two tensors or more.

    One whose shape is computed from the frame, or that holds an input of the graph, is left out.
    """
    found = (_joined(model, value.name) for value in model.graph.output if value.type.tensor_type.elem_type == 1)
    return tuple(item for item in found if item is not None)


def part_places(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """For each output of ``model`` that joins tensors, as :func:`find_joined` tells, the number of its part for each
    value: float32 in the shape of one row of the batch ``feeds``, with a batch axis of 1."""
    found = find_joined(model)
    asked = sorted({name for item in found for name in item.parts})
    if not asked:
        return {}
    outputs = {value.name for value in model.graph.output}
    running = Running(model, also=[name for name in asked if name not in outputs])
    values = dict(zip(asked, running.run(asked, dict(feeds)), strict=True))
    places = {item.output: item.places(values) for item in found}
    return {name: array[:1] for name, array in places.items() if array.ndim > 1 and (array == array[:1]).all()}


def _joined(model: onnx.ModelProto, output: str) -> Joined | None:
    from onnx import helper

    floats = float_tensors(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    tail: dict[str, onnx.NodeProto] = {}
    parts: dict[str, None] = {}
    waiting, seen = [output], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = makers.get(name)
        if node is None:
            return None  # an input of the graph
        if node.op_type not in MOVING or node.domain not in ("", "ai.onnx"):
            parts[name] = None
            continue
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        if any(item and item not in constants for item in node.input if item not in moved):
            return None
        if not floats.issuperset(item for item in moved if item not in constants):
            return None
        tail[node.output[0]] = node
        waiting.extend(item for item in moved if item not in constants)
    if len(parts) < 2:
        return None
    ordered = [node for node in model.graph.node if node.output and node.output[0] in tail]
    needed = {name for node in ordered for name in node.input}
    graph = helper.make_graph(
        ordered,
        "tail",
        [helper.make_tensor_value_info(name, 1, None) for name in parts],
        [helper.make_tensor_value_info(output, 1, None)],
        [tensor for name, tensor in constants.items() if name in needed],
    )
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return Joined(output, tuple(parts), made)
