"""Which tensors quantization touches: read from the graph, the same answer for calibration and for both quantizers."""

from __future__ import annotations

import fnmatch
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeship.errors import ModelError, UserInputError
from edgeship.prepare.graph import opset_of
from edgeship.text import alike

if TYPE_CHECKING:
    import onnx

SHARING = frozenset(
    ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Slice", "Split", "Identity", "Expand")
)
"""Operators that move values without making new ones: their outputs take the range of their first input."""
COMPUTING = frozenset(
    [
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "GlobalAveragePool",
        "AveragePool",
        "Concat",
        "Resize",
        "Pad",
    ]
)
"""Operators with an integer kernel in onnxruntime or TensorRT, other than those that only move values."""
NORMALIZING = frozenset(("BatchNormalization", "HardSwish", "LayerNormalization", "LRN"))
"""Operators whose input ModelOpt quantizes for TensorRT, beside those that compute."""
RANKING = frozenset(("TopK", "CumSum"))
"""Operators that ModelOpt would quantize and that stay as they are: 256 levels leave ties in a ranking of thousands."""
MIN_OPSET = 13
"""The first operator set with a per-channel axis on QuantizeLinear."""
WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
LIMITS = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
"""What the results of these operators can be."""
FUSED = frozenset(("Relu", "Clip"))
"""Activations that every engine computes inside the operator before them."""


@dataclass(frozen=True)
class Placement:
    """What calibration must know.

    ``observed`` are measured, in execution order; ``shared`` maps other tensors to the observed one whose range
    they take: outputs of data movement, and results that a fused ReLU or Clip consumes at once.
    """

    observed: tuple[str, ...]
    shared: dict[str, str]


def place(model: onnx.ModelProto) -> Placement:
    """Find the float activations that quantization of any engine reads or writes. ``model`` has inferred shapes."""
    floats = float_tensors(model)
    consumers = _consumers(model)
    outputs = {value.name for value in model.graph.output}
    shared: dict[str, str] = {}
    touched: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in SHARING and node.input[0] in floats:
            shared.update({name: node.input[0] for name in node.output if name in floats})
        if node.op_type in COMPUTING:
            touched.update(dict.fromkeys(name for name in [*node.input, *node.output] if name in floats))
        if node.op_type in NORMALIZING and node.input[0] in floats:
            touched[node.input[0]] = None
        if node.op_type in FUSED and node.input[0] in floats and node.output[0] in floats:
            source = node.input[0]
            if len(consumers[source]) == 1 and source not in outputs:
                shared[source] = node.output[0]
    observed = {_root(name, shared): None for name in touched}
    return Placement(
        observed=tuple(observed),
        shared={name: root for name in shared if (root := _root(name, shared)) in observed and name not in observed},
    )


def limits(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """(lowest, highest) that a tensor can be, for results of operators that bound them.

    onnxruntime's quantizer removes a ReLU or Clip between Q/DQ nodes: the range must then do what they did.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, tuple[float, float]] = {}
    for node in model.graph.node:
        if node.op_type in LIMITS:
            found[node.output[0]] = LIMITS[node.op_type]
        elif node.op_type == "Clip":
            ends = [constants.get(name) for name in [*node.input[1:], "", ""][:2]]
            low, high = (None if end is None else float(numpy_helper.to_array(end).item()) for end in ends)
            found[node.output[0]] = (-math.inf if low is None else low, math.inf if high is None else high)
    return found


def _root(name: str, shared: dict[str, str]) -> str:
    seen = set()
    while name in shared and name not in seen:
        seen.add(name)
        name = shared[name]
    return name


def _consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of float32 and float16 activations: graph inputs and node outputs, no constants."""
    import onnx

    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
    return {value.name for value in values if value.type.tensor_type.elem_type in kinds} - constants


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
