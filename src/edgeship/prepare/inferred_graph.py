"""Graphs made ready for quantization: constants as initializers, named nodes and axes, inferred types and shapes, an
operator set that can express Q/DQ; and nodes selected by pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import ModelError, UserInputError
from edgeship.prepare import graph
from edgeship.prepare.graph import opset_of
from edgeship.prepare.large import inlined, too_large, without_weights
from edgeship.prepare.running import Running
from edgeship.text import alike

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 13
"""The first operator set with a per-channel axis on QuantizeLinear."""


def infer(model: onnx.ModelProto, *, given: bool = False) -> onnx.ModelProto:
    """A copy that computes the same, with named nodes and axes, no local functions, constants as initializers, the type
    of every tensor where onnx or onnxruntime can tell it, at an operator set that can express per-channel Q/DQ.

    Args:
        given: Whether ``model`` itself may be changed into it, which saves the memory of a copy.

    Raises:
        ModelError: Shapes cannot be inferred, the operator set cannot be raised, or it is newer than onnx knows.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset_of(model) > newest:
        raise ModelError(
            f"the graph is written in opset {opset_of(model)}, onnx {onnx.__version__} knows opsets up to {newest}",
            do="export it again with an opset that the tools know: model.opset",
        )
    if opset_of(model) < MIN_OPSET and too_large(model):
        raise ModelError(
            f"opset {opset_of(model)} in a graph of more than 2 GiB, which onnx cannot convert",
            expected=f"opset {MIN_OPSET} or later",
            do="export it again with opset_version=18",
        )
    prepared = model if given else onnx.ModelProto()
    if not given:
        prepared.CopyFrom(model)
    try:
        if prepared.functions:
            prepared = inlined(prepared)
        named(prepared)
        if opset_of(prepared) < MIN_OPSET:
            prepared = onnx.version_converter.convert_version(prepared, MIN_OPSET)
            named(prepared)
        lift_constants(prepared)
        _fold_gemm(prepared)
        _name_axes(prepared)
        inferred = onnx.shape_inference.infer_shapes(without_weights(prepared), strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the graph cannot be prepared for quantization: {words}", do="run edgeship slim first"
        ) from None
    for kind in ("value_info", "output"):
        prepared.graph.ClearField(kind)
        getattr(prepared.graph, kind).extend(getattr(inferred.graph, kind))
    _name_axes(prepared)
    _ask_for_types(prepared)
    return prepared


QUANTIZED = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "MatMulInteger",
        "ConvInteger",
        "MatMulNBits",
        "QGemm",
        "QLinearAdd",
    ]
)
"""Operators of graphs that are quantized already."""


def require_float(model: onnx.ModelProto, name: str) -> None:
    """Refuse a graph that is not FP32 (quantized already, FP16 or bfloat16 weights) or that draws random numbers.

    Raises:
        ModelError: What was found, and how such a model ships.
    """
    found = [node.op_type for node in model.graph.node if node.op_type in QUANTIZED]
    if found:
        raise ModelError(
            f"{name} is quantized already: it holds {len(found)} nodes such as {found[0]} (QAT or another tool)",
            expected="an FP32 graph: quantizing twice would replace the scales it was trained with",
            do='ship it with the scales it has: precisions = ["as-given"] in [candidates]',
        )
    random = graph.random_nodes(model)
    if random:
        raise ModelError(
            f"{name} draws random numbers: {random[0].op_type} {random[0].name or random[0].output[0]!r}",
            expected="a graph that gives the same answer twice: no comparison with FP32 means anything otherwise",
            do="export the model without it: model.eval(), a fixed noise input, or no sampling in forward()",
        )
    kinds = {10: "FP16 (float16)", 16: "bfloat16"}
    halves = [tensor for tensor in model.graph.initializer if tensor.data_type in kinds and len(tensor.dims) > 1]
    if halves:
        raise ModelError(
            f"{name} is {kinds[halves[0].data_type]} already, as {len(halves)} of its weights are: {halves[0].name!r}",
            expected="the FP32 (float32) export: INT8 ranges and FP16 are made from it",
            do="export the model in float32: model.float() before edgeship export",
        )


def lift_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initializers, and take initializers out of the graph's inputs (files of IR 3 list them
    there), in place."""
    import onnx
    from onnx import numpy_helper

    outputs = {value.name for value in model.graph.output}
    kept = []
    for node in model.graph.node:
        tensor = _constant_of(node) if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        if not isinstance(tensor, onnx.TensorProto):
            tensor = numpy_helper.from_array(tensor)
        lifted = model.graph.initializer.add()
        lifted.CopyFrom(tensor)
        lifted.name = node.output[0]
    model.graph.ClearField("node")
    model.graph.node.extend(kept)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)


def _constant_of(node: onnx.NodeProto) -> Any:
    """The value of a Constant node; None for one that is not a numeric tensor."""
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in kinds:
            from onnx import helper

            return np.array(helper.get_attribute_value(attribute), kinds[attribute.name])
    return None


def _fold_gemm(model: onnx.ModelProto) -> None:
    """Bring Gemm's constant operands into the form that quantizers take, in place: alpha in the weight, beta in the
    bias, a bias of one value for each output."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Gemm":
            continue
        settings = {attribute.name: attribute for attribute in node.attribute}
        if "alpha" in settings and settings["alpha"].f != 1.0 and node.input[1] in tensors:
            weight = numpy_helper.to_array(tensors[node.input[1]])
            name = f"{node.name}:scaled"
            model.graph.initializer.append(
                numpy_helper.from_array(weight * weight.dtype.type(settings["alpha"].f), name)
            )
            tensors[name] = model.graph.initializer[-1]
            node.input[1] = name
            settings["alpha"].f = 1.0
        if "beta" in settings and (len(node.input) < 3 or not node.input[2]):
            settings["beta"].f = 1.0
        if len(node.input) < 3 or node.input[2] not in tensors:
            continue
        beta = settings["beta"].f if "beta" in settings else 1.0
        values = numpy_helper.to_array(tensors[node.input[2]])
        outputs = outputs_of(node, tensors)
        row = values.size in (1, outputs) and values.shape[:-1].count(1) == max(values.ndim - 1, 0)
        if outputs is None or not row or (beta == 1.0 and values.ndim == 1 and values.size == outputs):
            continue
        folded = (np.broadcast_to(values.reshape(-1), (outputs,)) * values.dtype.type(beta)).astype(values.dtype)
        name = f"{node.name}:bias"
        model.graph.initializer.append(numpy_helper.from_array(folded, name))
        node.input[2] = name
        if "beta" in settings:
            settings["beta"].f = 1.0


def outputs_of(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> int | None:
    """How many outputs a Gemm with a constant weight has."""
    weight = tensors.get(node.input[1])
    transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
    return None if weight is None else int(weight.dims[0 if transposed else 1])


def _name_axes(model: onnx.ModelProto) -> None:
    """Give every dynamic axis a name, in place; an axis of size 0 or less is dynamic (Paddle writes -1)."""
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        for index, axis in enumerate(value.type.tensor_type.shape.dim):
            if not axis.dim_param and axis.dim_value <= 0:
                axis.dim_param = f"{value.name}_axis{index}"


def _ask_for_types(model: onnx.ModelProto) -> None:
    """Note the type of tensors that onnx's inference does not know, as onnxruntime tells it (operators of its own
    domain), in place. Where onnxruntime does not load the graph, they stay unknown, and so in float."""
    from onnx import helper

    known = {value.name for value in [*model.graph.value_info, *model.graph.output] if value.type.WhichOneof("value")}
    missing = [name for node in model.graph.node for name in node.output if name and name not in known]
    vague = {value.name: value for value in model.graph.output if not value.type.tensor_type.HasField("shape")}
    if not missing and not vague:
        return
    try:
        described = Running(model, optimize=False, also=missing).session.get_outputs()
    except ModelError:
        return
    kinds = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(double)": 11, "tensor(int64)": 7, "tensor(bool)": 9}
    for item in described:
        shape = [axis if isinstance(axis, int) else axis or None for axis in item.shape]
        if item.name in vague and item.type in kinds:
            vague[item.name].CopyFrom(helper.make_tensor_value_info(item.name, kinds[item.type], shape))
        elif item.name in missing and item.type in kinds:
            model.graph.value_info.append(helper.make_tensor_value_info(item.name, kinds[item.type], shape))


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
