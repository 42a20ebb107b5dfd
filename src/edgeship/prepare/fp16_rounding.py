"""An FP16 graph as a float32 graph that rounds as FP16 does: what a GPU computes, on any processor.

onnxruntime's CPU kernels are no judge of FP16: where there is none, it computes in float32 and drops the casts between,
so that a graph which collapses on a GPU was seen at 70 dB; and on bidirectional recurrent layers it ends the process.
Here every FP16 result is rounded once, as by a kernel that accumulates in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship.prepare import graph
from edgeship.results import Artifact

if TYPE_CHECKING:
    import onnx

FLOAT, HALF = 1, 10
"""TensorProto.DataType of float32 and float16."""


def rounded_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of float32 with the inputs and outputs of ``model``, whose FP16 tensors are rounded to FP16 explicitly.

    ``model`` holds no loops or conditions.
    """
    import onnx
    from onnx import helper

    inferred = graph.inferred(model)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    halves = {value.name for value in values if value.type.tensor_type.elem_type == HALF}
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    twin.graph.ClearField("value_info")
    for value in [*twin.graph.input, *twin.graph.output]:
        if value.type.tensor_type.elem_type == HALF:
            value.type.tensor_type.elem_type = FLOAT
    for tensor in twin.graph.initializer:
        _widen(tensor)
    nodes: list[onnx.NodeProto] = []
    for node in twin.graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == HALF:
                attribute.i = FLOAT
            _widen(attribute.t)
        for slot, name in enumerate(node.output):
            if name in halves:
                node.output[slot] = f"{name}__wide"
                nodes.append(helper.make_node("Cast", [f"{name}__wide"], [f"{name}__half"], to=HALF))
                nodes.append(helper.make_node("Cast", [f"{name}__half"], [name], to=FLOAT))
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    twin.graph.ClearField("node")
    twin.graph.node.extend(copied)
    return twin


def round_in_place(path: Path) -> Artifact:
    """Replace an FP16 graph's file by its :func:`rounded_twin`."""
    twin = rounded_twin(graph.load_onnx(path))
    graph.save_onnx(twin, path)
    return Artifact.of(path, path.parent)


def _widen(tensor: onnx.TensorProto) -> None:
    """Turn an FP16 constant into float32, in place."""
    from onnx import numpy_helper

    if tensor.data_type == HALF:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
