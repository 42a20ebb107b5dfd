"""Changes to a captured program that keep its answers, for what the ONNX exporter cannot translate as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node


def settle_layouts(program: ExportedProgram) -> int:
    """Put a copy of one memory layout, the plain one, before every ``view`` and its kin, in place; how many.

    A ``view`` holds for the layout that was seen in the capture, and what stands for an operator may leave another:
    the products of a fused attention do. In ONNX the copies are no nodes.
    """
    import torch

    aten = torch.ops.aten
    kinds = (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten._unsafe_view.default)
    views = [node for module in _modules(program) for node in module.graph.nodes if node.target in kinds]
    for node in views:
        source = node.all_input_nodes[0]
        with node.graph.inserting_before(node):
            layout = {"memory_format": torch.contiguous_format}
            copy = node.graph.call_function(aten.clone.default, (source,), layout)
        copy.meta = dict(source.meta)
        node.replace_input_with(source, copy)
    _recompile(program)
    return len(views)


def drop_checks(program: ExportedProgram) -> int:
    """Leave out, in place, what only checks a value that is known at run time; how many checks.

    The ONNX exporter drops the checks too, but keeps what they read, some of which ONNX has no operator for
    (``torch._check_tensor_all``).
    """
    import torch

    aten = torch.ops.aten
    dropped = 0
    for module in _modules(program):
        for node in list(module.graph.nodes):
            read = node.target in (aten.item.default, aten._local_scalar_dense.default)
            checks = _checks_alone(node) if read and node.users else None
            if checks:
                dropped += sum(not item.users for item in checks)
                for item in checks:  # a node before its sources
                    node.graph.erase_node(item)
                _erase_unread(node)
    _recompile(program)
    return dropped


def _modules(program: ExportedProgram) -> Iterator[GraphModule]:
    from torch.fx import GraphModule

    return (module for module in program.graph_module.modules() if isinstance(module, GraphModule))


def _recompile(program: ExportedProgram) -> None:
    for module in _modules(program):
        module.recompile()


def _checks_alone(node: Node) -> list[Node] | None:
    """All that follows from a number read at run time, last first; None where it serves more than checks."""
    import torch

    check = torch.ops.aten._assert_scalar.default
    found: dict[Node, None] = {}
    reading = [node]
    while reading:
        for user in reading.pop().users:
            symbolic = not isinstance(user.target, torch._ops.OpOverload) and user.op == "call_function"
            if user.target is not check and not (symbolic and user.users):
                return None
            found.pop(user, None)
            found[user] = None
            reading.append(user)
    return list(reversed(found))


def _erase_unread(node: Node) -> None:
    """Erase a node that nothing reads, and what it alone reads."""
    sources = node.all_input_nodes
    node.graph.erase_node(node)
    for source in sources:
        if not source.users and source.op == "call_function":
            _erase_unread(source)
