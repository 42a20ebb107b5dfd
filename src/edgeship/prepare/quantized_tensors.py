"""Which tensors quantization touches: read from the graph, the same answer for calibration and for both quantizers."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeship.prepare.masks import masked_tensors

if TYPE_CHECKING:
    import onnx

Style = Literal["tensorrt", "onnxruntime"]
"""The kind of engine that Q/DQ nodes are placed for."""
Placement = Literal["default", "products", "residual-float"]
"""Which operators get Q/DQ: all that an engine runs in 8 bits; products alone; all but sums of residual branches."""
SHARING = frozenset(
    ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Slice", "Split", "Identity", "Expand")
)
"""Operators that move values without making new ones: their outputs take the range of their first input."""
MOVING = (SHARING | {"Resize"}) - {"Identity", "Expand"}
"""Operators that onnxruntime runs on 8-bit values as they are: their results take the scale of what they read."""
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
WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
LIMITS = {"Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
"""What the results of these operators can be."""
FUSED = frozenset(("Relu", "Clip"))
"""Activations that every engine computes inside the operator before them."""


@dataclass(frozen=True)
class QuantizedTensors:
    """What calibration must know.

    ``observed`` are measured, in execution order; ``shared`` maps other tensors to the observed one whose range
    they take: outputs of data movement, and results that a fused ReLU or Clip consumes at once.
    """

    observed: tuple[str, ...]
    shared: dict[str, str]


def find_tensors(model: onnx.ModelProto) -> QuantizedTensors:
    """Find the float activations that quantization of any engine reads or writes; masked ones have no range.

    ``model`` has inferred types.
    """
    floats = float_tensors(model) - masked_tensors(model)
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
    return QuantizedTensors(
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


def idle_joins(model: onnx.ModelProto, integer: set[str]) -> set[str]:
    """Names of the Concats that no integer kernel reads, behind whatever moves the values there: they stay in float.

    One grid for all that is joined would cost the smaller part its values for nothing, as a detector's scores beside
    the pixels of its boxes. ``integer`` names the nodes that would get integer kernels.
    """
    left: set[str] = set()
    read: set[str] = set()  # tensors that an integer kernel reads, as they are or moved
    for node in reversed(model.graph.node):
        wanted = any(name in read for name in node.output)
        if node.op_type == "Concat" and node.name in integer and not wanted:
            left.add(node.name)
        elif node.name in integer or (wanted and node.op_type in MOVING):
            read.update(node.input)
    return left


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
