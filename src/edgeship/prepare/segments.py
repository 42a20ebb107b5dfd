"""A graph cut into segments that run one after the other, so that what several runs share is run once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgeship.prepare.running import Running

if TYPE_CHECKING:
    import onnx

Tensors = dict[str, NDArray[Any]]
PLAIN = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13))
"""TensorProto.DataType of what numpy holds as it is: no text, no bfloat16, nothing of eight bits with an exponent."""


@dataclass(frozen=True)
class Segment:
    """A part of a graph, open, with what it reads and what it leaves for later ones."""

    running: Running
    reads: tuple[str, ...]
    leaves: tuple[str, ...]

    def run(self, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
        """What it leaves, by name, on what is there of what it reads."""
        answers = self.running.run(self.leaves, {name: tensors[name] for name in self.reads})
        return dict(zip(self.leaves, answers, strict=True))


def cut(model: onnx.ModelProto, behind: Sequence[int]) -> list[onnx.ModelProto]:
    """The graph in parts, each a graph of its own: cut behind the nodes at these places, in rising order.

    The nodes stand in the order in which they run. A part's inputs are what it reads of the graph's inputs and of
    earlier parts, its outputs what later parts read of it and what the graph gives.

    Returns:
        The parts; the graph alone where it gives a constant or holds sparse ones, where a tensor between two parts is
        of a type that is not known or not numpy's, or where a part reads or leaves nothing. Between parts no shape is
        declared: a file may declare one that is not so.
    """
    nodes = list(model.graph.node)
    given = {value.name: value for value in model.graph.input}
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output, *model.graph.input)
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    ends = [*(place + 1 for place in behind if place + 1 < len(nodes)), len(nodes)]
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    reads = [_reads(nodes[start:end]) for start, end in spans]
    final = {value.name for value in model.graph.output}
    if model.graph.sparse_initializer or final & constants:
        return [model]
    parts = []
    for number, (start, end) in enumerate(spans):
        made = {name for node in nodes[start:end] for name in node.output if name}
        later: set[str] = set().union(*reads[number + 1 :])
        entering = sorted(reads[number] - made - constants)
        leaving = sorted(made & (later | final))
        between = {name: types.get(name, 0) for name in (*entering, *leaving)}
        if not entering or not leaving or not PLAIN.issuperset(between.values()):
            return [model]
        declared = {name: given.get(name) or _typed(name, kind) for name, kind in between.items()}
        parts.append(
            _part(model, nodes[start:end], [declared[name] for name in entering], [declared[name] for name in leaving])
        )
    return parts


def apart(model: onnx.ModelProto) -> list[bool]:
    """By node, whether a cut behind it parts nothing that onnxruntime could fuse: no tensor goes from a node before the
    cut to one behind it, but into or out of an ``If``, whose bodies are optimized by themselves.
    """
    made: dict[str, int] = {}
    read: dict[int, int] = {}
    for place, node in enumerate(model.graph.node):
        if node.op_type == "If":
            continue
        for name in node.input:
            if name in made:
                read[made[name]] = place
        made.update(dict.fromkeys(node.output, place))
    clean, until = [], 0
    for place in range(len(model.graph.node)):
        until = max(until, read.get(place, 0))
        clean.append(until <= place)
    return clean


def opened(parts: Iterable[onnx.ModelProto]) -> list[Segment]:
    """Parts in sessions of one thread. Raises ModelError where onnxruntime refuses one."""
    return [
        Segment(
            Running(part, layout=True, threads=1),
            tuple(value.name for value in part.graph.input),
            tuple(value.name for value in part.graph.output),
        )
        for part in parts
    ]


def _typed(name: str, kind: int) -> onnx.ValueInfoProto:
    from onnx import helper

    made: onnx.ValueInfoProto = helper.make_tensor_value_info(name, kind, None)
    return made


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    entering: Sequence[onnx.ValueInfoProto],
    leaving: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    import onnx

    needed = _reads(nodes)
    part = onnx.ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.input.extend(entering)
    part.graph.output.extend(leaving)
    inner = {name for node in nodes for name in node.output} - {value.name for value in leaving}
    part.graph.value_info.extend(value for value in model.graph.value_info if value.name in inner)
    return part


def _reads(nodes: Iterable[onnx.NodeProto], inside: Collection[str] = ()) -> set[str]:
    """Names that nodes read and do not make, those read inside their bodies too."""
    found: set[str] = set()
    made = set(inside)
    for node in nodes:
        found.update(name for name in node.input if name and name not in made)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
                found |= _reads(body.node, own) - made
                found.update(value.name for value in body.output if value.name not in own | made | _made(body.node))
        made.update(node.output)
    return found


def _made(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}
