"""What other tools leave in ONNX files and most libraries refuse: nodes out of order, names that nodes share."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from edgeship.errors import ModelError

if TYPE_CHECKING:
    import onnx


def distinct_names(model: onnx.ModelProto) -> list[str]:
    """Give nodes that share a name names of their own, in place: onnxruntime refuses the graph otherwise.

    Returns:
        A note that says how many.
    """
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    renamed = 0
    for node in model.graph.node:
        if node.name and node.name in seen:
            number = 2
            while f"{node.name}_{number}" in taken:
                number += 1
            node.name = f"{node.name}_{number}"
            taken.add(node.name)
            renamed += 1
        seen.add(node.name)
    return [f"{renamed} nodes shared the name of another and have their own now"] if renamed else []


def sort_nodes(model: onnx.ModelProto) -> list[str]:
    """Put nodes behind those whose results they read, in place; otherwise their order stays.

    Returns:
        A note, where the order was another.

    Raises:
        ModelError: Nodes read one another's results in a circle; names them.
    """
    nodes = list(model.graph.node)
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    waits = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    if all(place > max(needed, default=-1) for place, needed in enumerate(waits)):
        return []
    done: set[int] = set()
    order: list[int] = []
    left = list(range(len(nodes)))
    while left:
        ready = [place for place in left if waits[place] <= done]
        if not ready:
            circle = [nodes[place] for place in left if any(place in waits[other] for other in left)]
            listed = ", ".join(f"{node.op_type} {node.name or node.output[0]!r}" for node in circle[:5])
            raise ModelError(
                f"not a valid ONNX graph: nodes read one another's results in a circle: {listed}",
                expected="nodes that can run one after the other",
                do="export it again; a loop in the model is an ONNX Loop",
            )
        order += ready
        done.update(ready)
        left = [place for place in left if place not in done]
    copies = [type(nodes[0]).FromString(nodes[place].SerializeToString()) for place in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return ["the nodes were not in the order in which they run, and are now"]


def fix_channels(model: onnx.ModelProto) -> list[str]:
    """Give channels of inputs that are declared dynamic the number that the first convolution takes, in place.

    Returns:
        A note for each input.
    """
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output if name}
    notes = []
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) < 2 or len(weights.get(node.input[1], ())) < 3:
            continue
        found = _input_axis(node.input[0], 1, makers, weights)
        if found is None or found[0] not in dims or found[1] not in range(len(dims[found[0]])):
            continue
        name, axis = found
        dim = dims[name][axis]
        if dim.dim_value > 0:
            continue
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        channels, declared = weights[node.input[1]][1] * groups, dim.dim_param
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            for other in value.type.tensor_type.shape.dim:
                if declared and other.dim_param == declared:
                    other.dim_value = channels
        dim.dim_value = channels
        notes.append(f"input {name!r} has {channels} channels, which Conv {node.name or node.output[0]!r} takes")
    return notes


def _input_axis(
    name: str, axis: int, makers: dict[str, onnx.NodeProto], weights: Container[str]
) -> tuple[str, int] | None:
    """The tensor that nothing makes, and its axis, that ``axis`` of a tensor is, behind operators that only move it;
    None where there is none, as in a circle of nodes."""
    passed: set[str] = set()
    while name in makers:
        node = makers[name]
        if name in passed or len(node.input) != 1:
            return None
        passed.add(name)
        if node.op_type == "Transpose":
            order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])
            if axis not in range(len(order)):
                return None
            axis = order[axis]
        elif node.op_type not in ("Cast", "Identity"):
            return None
        name = node.input[0]
    return None if name in weights else (name, axis)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, also from inside its subgraphs."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from reads(inner)
