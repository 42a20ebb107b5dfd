"""INT8 and FP8 graphs for TensorRT: Q/DQ placed by ModelOpt, with the scales of a calibration cache."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeship.config import Precision
from edgeship.prepare import modelopt
from edgeship.prepare.calibration_cache import CalibrationCache, lacking
from edgeship.prepare.quantized_tensors import SHARING, WEIGHTED, Placement, float_tensors

SMALL = 16
"""Channels, and terms of a product, below which ModelOpt leaves a layer in float: tensor cores gain nothing."""

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch


def trt_graph(
    reference: onnx.ModelProto,
    calibration: CalibrationCache,
    frame: FrameBatch,
    left: dict[str, str],
    precision: Precision,
) -> onnx.ModelProto:
    """The Q/DQ graph for TensorRT 10 strongly typed, 11 and RTX, in memory.

    ``fp8`` (E4M3, compute capability 8.9 and later) takes amax / 448 of the same ranges. ModelOpt runs the real batch
    ``frame``, whose ranges are replaced.

    Args:
        left: Node name → why it stays in float; the products that ModelOpt leaves are added.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
        StageError: ModelOpt failed.
    """
    fp8 = precision == "fp8"
    high: Literal["fp16", "fp32"] = "fp32" if precision == "int8-fp32" else "fp16"
    proto = modelopt.quantize(reference, frame, left, "fp8" if fp8 else "int8", high)
    set_scales(proto, reference, calibration, fp8=fp8)
    for node in left_by_modelopt(reference, proto):
        left.setdefault(node.name, _why(reference, node, fp8=fp8))
    return proto


def leave_out(proto: onnx.ModelProto, placement: Placement) -> None:
    """Take the rounded values from the operators that a placement leaves in float, in place; products keep theirs."""
    if placement == "default":
        return
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            readers[name].append(node)
    quantizers = {node.output[0]: node for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    raw = {
        node.output[0]: quantizers[node.input[0]].input[0]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantizers
    }

    def reaches_product(node: onnx.NodeProto) -> bool:
        if node.op_type in WEIGHTED:
            return True
        moves = node.op_type in SHARING or node.op_type == "Cast"
        return moves and any(reaches_product(reader) for name in node.output for reader in readers[name])

    for node in proto.graph.node:
        leaves = node.op_type == "Add" if placement == "residual-float" else node.op_type not in ("QuantizeLinear",)
        if leaves and not reaches_product(node):
            for slot, name in enumerate(node.input):
                node.input[slot] = raw.get(name, name)
    used = {name for node in proto.graph.node for name in node.input} | {value.name for value in proto.graph.output}
    for operators in (("DequantizeLinear",), ("QuantizeLinear",)):
        nodes = [n for n in proto.graph.node if n.op_type not in operators or n.output[0] in used]
        used = {name for node in nodes for name in node.input} | {value.name for value in proto.graph.output}
        proto.graph.ClearField("node")
        proto.graph.node.extend(nodes)


def left_by_modelopt(reference: onnx.ModelProto, proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Products of the reference whose data is not read from a DequantizeLinear in the quantized graph."""
    origin = {name: node for node in proto.graph.node for name in node.output}

    def rounded(name: str) -> bool:
        node = origin.get(name)
        while node is not None and node.op_type in ("Cast", *SHARING):
            node = origin.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    inside = {node.name: rounded(node.input[0]) for node in proto.graph.node if node.op_type in WEIGHTED}
    return [node for node in reference.graph.node if node.op_type in WEIGHTED and not inside.get(node.name, False)]


def _why(reference: onnx.ModelProto, node: onnx.NodeProto, *, fp8: bool) -> str:
    """The rule by which ModelOpt leaves a product in float."""
    weight = next((tensor for tensor in reference.graph.initializer if tensor.name == node.input[1]), None)
    if node.op_type in ("Conv", "ConvTranspose"):
        if weight is None:
            return "its weight is computed, not constant"
        outputs, inputs = weight.dims[0], weight.dims[1]
        if min(outputs, inputs) < SMALL:
            return f"few channels: {inputs} in a group, {outputs} out; ModelOpt wants {SMALL} of each"
        return "a kernel too large for FP8" if fp8 else "ModelOpt left it: its neighbours are not quantized"
    if weight is not None and min(weight.dims[-2:]) < SMALL:
        return f"a small product: {' × '.join(map(str, weight.dims[-2:]))}; ModelOpt wants K and N of {SMALL} at least"
    return f"a product with a vector, or K or N below {SMALL}: no faster in INT8 (ModelOpt's rule)"


def set_scales(proto: onnx.ModelProto, reference: onnx.ModelProto, calibration: CalibrationCache, *, fp8: bool) -> None:
    """Give every activation's Q/DQ pair the scale of the cache, in place; for FP8, amax / 448.

    ModelOpt 0.47 makes an FP8 graph from an int8 one by multiplying its scales with 448 / 127, where amax / 448 is
    amax / 127 times 127 / 448: most of E4M3's range stays unused. The scales of weights are set right too.

    Raises:
        CacheError: The cache lacks a tensor whose Q/DQ pair is in the graph.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    origin = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Cast"}
    readers = {node.input[0]: node.input[1] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    floats = float_tensors(reference)
    missing: dict[str, None] = {}
    changed: set[str] = set()
    for node in proto.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        name = node.input[0]
        while name not in floats and name in origin:
            name = origin[name]
        if name in floats and name not in calibration.scales:
            missing[name] = None
            continue
        for scale in {node.input[1], readers[node.output[0]]} - changed:
            changed.add(scale)
            if name in floats:
                _set(constants[scale], calibration.scales[name] * (127.0 / 448.0 if fp8 else 1.0))
            elif fp8:
                _set(constants[scale], None)
    if missing:
        raise lacking(calibration, missing)


def _set(scale: onnx.TensorProto, value: float | None) -> None:
    """Overwrite a scale with ``value``; None: turn ModelOpt's FP8 scale into amax / 448.

    A tensor that was zero on every frame has a scale that FP16 rounds to zero, which no engine divides by.
    """
    from onnx import numpy_helper

    old = numpy_helper.to_array(scale)
    new = old.astype(np.float64) * (127.0 / 448.0) ** 2 if value is None else np.full(old.shape, value)
    least = np.finfo(old.dtype).smallest_subnormal
    scale.CopyFrom(numpy_helper.from_array(np.maximum(new.astype(old.dtype), least), scale.name))
