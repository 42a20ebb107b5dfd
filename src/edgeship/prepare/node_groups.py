"""Groups of nodes that are quantized or kept together, and what is special about each: first, last, depthwise."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeship.prepare.quantized_tensors import COMPUTING, SHARING, WEIGHTED, Placement, Style, float_tensors, idle_joins
from edgeship.results import SensitiveGroup

if TYPE_CHECKING:
    import onnx

MOVING = SHARING | {"Gather", "Concat", "Cast", "Shape", "Where", "Tile", "DepthToSpace", "SpaceToDepth", "ScatterND"}
"""Operators that compute nothing: FP16 changes only what they are given."""
ACTIVATIONS = frozenset(("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu"))


@dataclass
class Group:
    """Nodes that are quantized or kept together, in execution order."""

    nodes: list[onnx.NodeProto]
    patterns: tuple[Literal["first", "last", "depthwise"], ...] = ()

    def result(self, snr_db: float) -> SensitiveGroup:
        """As results tell it."""
        return SensitiveGroup(
            nodes=tuple(node.name for node in self.nodes),
            operator="+".join(node.op_type for node in self.nodes),
            snr_db=snr_db,
            patterns=self.patterns,
        )


def find_groups(
    model: onnx.ModelProto, kept: frozenset[str], style: Style | Literal["fp16"], placement: Placement = "default"
) -> list[Group]:
    """Groups in execution order: weighted nodes with the activation behind them, then every other quantized node."""
    floats = float_tensors(model)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in model.graph.output}
    free = {node.name for node in model.graph.node if node.name not in kept}
    wanted = {node.name for node in model.graph.node if _quantizable(node, floats, style, placement)} & free
    if style == "onnxruntime":
        wanted -= idle_joins(model, wanted)
    taken: set[str] = set()
    groups: list[Group] = []
    for node in model.graph.node:
        if node.name in taken or node.name not in wanted:
            continue
        members = [node]
        if node.op_type in WEIGHTED and node.output[0] not in outputs:
            members += [item for item in _activation(node, readers) if item.name not in kept]
        taken.update(item.name for item in members)
        groups.append(Group(members))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    weighted = [group for group in groups if group.nodes[0].op_type in WEIGHTED]
    last = _last(weighted, readers)
    for group in groups:
        marks: list[Literal["first", "last", "depthwise"]] = []
        if weighted and group is weighted[0]:
            marks.append("first")
        if any(group is item for item in last):
            marks.append("last")
        if _depthwise(group.nodes[0], shapes):
            marks.append("depthwise")
        group.patterns = tuple(marks)
    return groups


def _quantizable(node: onnx.NodeProto, floats: set[str], style: Style | Literal["fp16"], placement: Placement) -> bool:
    if style == "fp16":
        return node.op_type not in MOVING and node.output[0] in floats and bool(floats.intersection(node.input))
    kinds = COMPUTING if style == "onnxruntime" and placement != "products" else WEIGHTED
    if placement == "residual-float" and node.op_type == "Add" and floats.issuperset(node.input):
        return False
    return node.op_type in kinds and node.op_type not in SHARING and node.output[0] in floats


def _activation(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """The activation behind a node: one operator, or a gate (Sigmoid and Mul) whose two inputs come from it."""
    output = node.output[0]
    found: list[onnx.NodeProto] = [item for item in readers[output] if item.op_type in ACTIVATIONS]
    if len(found) != 1:
        return []
    gate = found[0]
    behind = readers[gate.output[0]]
    if len(readers[output]) == 1:
        return [gate]
    if len(readers[output]) == 2 and len(behind) == 1 and set(behind[0].input) == {output, gate.output[0]}:
        return [gate, behind[0]]
    return []


def _last(weighted: list[Group], readers: dict[str, list[onnx.NodeProto]]) -> list[Group]:
    """Weighted groups from which no other weighted node can be reached."""
    heads = {id(group.nodes[0]) for group in weighted}
    found = []
    for group in weighted:
        names = {node.name for node in group.nodes}
        waiting = [name for node in group.nodes for name in node.output]
        seen: set[str] = set()
        reaches = False
        while waiting and not reaches:
            for reader in readers[waiting.pop()]:
                if reader.name in names or reader.name in seen:
                    continue
                seen.add(reader.name)
                reaches = reaches or id(reader) in heads
                waiting.extend(reader.output)
        if not reaches:
            found.append(group)
    return found


def _depthwise(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    parts = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" and len(node.input) > 1 else ()
    return parts > 1 and bool(shape) and shape[1] == 1
