"""Graphs made ready for quantization: named nodes, inferred shapes, an operator set that can express Q/DQ; and nodes
selected by pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeship.errors import ModelError, UserInputError
from edgeship.prepare.graph import opset_of
from edgeship.text import alike

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 13
"""The first operator set with a per-channel axis on QuantizeLinear."""


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with named nodes and inferred shapes, at an operator set that can express per-channel Q/DQ.

    Raises:
        ModelError: Shapes cannot be inferred, or the operator set cannot be raised.
    """
    import onnx

    named(model)
    try:
        if opset_of(model) < MIN_OPSET:
            model = onnx.version_converter.convert_version(model, MIN_OPSET)
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model), strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the graph cannot be prepared for quantization: {words}", do="run edgeship slim first"
        ) from None
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for kind in ("value_info", "output"):
        result.graph.ClearField(kind)
        getattr(result.graph, kind).extend(getattr(inferred.graph, kind))
    return result


SMALL = 1024
"""Bytes up to which shape inference may read a constant's values: shapes and axes, no weights."""


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with inputs in place of its weights: inference serializes it, and needs only their shapes."""
    import onnx
    from onnx import helper

    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    for kind in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, kind).extend(getattr(model.graph, kind))
    light.graph.name = model.graph.name
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= SMALL and tensor.ByteSize() <= 2 * SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every unnamed node the name ``<operator>_<first output>``, in place."""
    taken = {node.name for node in model.graph.node if node.name}
    for node in model.graph.node:
        if not node.name:
            name = f"{node.op_type}_{node.output[0]}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
    return model


def select(model: onnx.ModelProto, patterns: Iterable[str]) -> tuple[str, ...]:
    """Nodes that the patterns name: a node name, a shell pattern over node names, or ``op:Kind``.

    Raises:
        UserInputError: A pattern that names no node, with the nearest names.
    """
    names = [node.name for node in model.graph.node]
    kinds = sorted({node.op_type for node in model.graph.node})
    chosen: dict[str, None] = {}
    for pattern in patterns:
        if pattern.startswith("op:"):
            found = [n.name for n in model.graph.node if fnmatch.fnmatchcase(n.op_type, pattern[3:])]
            near = kinds
        else:
            found = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            near = alike(pattern, names, 3) or names[:3]
        if not found:
            raise UserInputError(
                f"keep pattern {pattern!r} names no node of the model",
                expected=f"for instance {', '.join(near)}",
                do="edgeship inspect MODEL lists the nodes; op:Conv names a kind",
            )
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)
