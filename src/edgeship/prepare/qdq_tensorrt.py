"""INT8 and FP8 graphs for TensorRT: Q/DQ placed by ModelOpt, with the scales of a calibration cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeship.config import Precision
from edgeship.errors import CacheError
from edgeship.prepare import modelopt
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.quantized_tensors import float_tensors

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch


def trt_graph(
    reference: onnx.ModelProto,
    calibration: CalibrationCache,
    frame: FrameBatch | None,
    kept: tuple[str, ...],
    precision: Precision,
) -> onnx.ModelProto:
    """The Q/DQ graph for TensorRT 10 strongly typed, 11 and RTX, in memory.

    ``fp8`` (E4M3, compute capability 8.9 and later) takes amax / 448 of the same ranges. ModelOpt runs the one real
    batch ``frame``, whose ranges are replaced.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
        DataError: No frame.
        StageError: ModelOpt failed.
    """
    fp8 = precision == "fp8"
    high: Literal["fp16", "fp32"] = "fp32" if precision == "int8-fp32" else "fp16"
    proto = modelopt.quantize(reference, frame, kept, "fp8" if fp8 else "int8", high)
    set_scales(proto, reference, calibration, fp8=fp8)
    return proto


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
        raise CacheError(
            f"{calibration.path} lacks {len(missing)} of the tensors to quantize: {', '.join(missing)[:300]}",
            expected="a scale for every tensor that quantization touches",
            do="calibrate this model again, or keep the nodes that read these tensors in high precision (--keep)",
        )


def _set(scale: onnx.TensorProto, value: float | None) -> None:
    """Overwrite a scale with ``value``; None: turn ModelOpt's FP8 scale into amax / 448.

    A tensor that was zero on every frame has a scale that FP16 rounds to zero, which no engine divides by.
    """
    from onnx import numpy_helper

    old = numpy_helper.to_array(scale)
    new = old.astype(np.float64) * (127.0 / 448.0) ** 2 if value is None else np.full(old.shape, value)
    least = np.finfo(old.dtype).smallest_subnormal
    scale.CopyFrom(numpy_helper.from_array(np.maximum(new.astype(old.dtype), least), scale.name))
