"""INT8 and FP8 graphs from one calibration: Q/DQ for onnxruntime by its quantizer, for TensorRT by ModelOpt.

The two are different graphs. onnxruntime wants uint8 activations around every operator that has an integer kernel;
TensorRT wants symmetric int8 at the inputs of convolutions and matrix products, and fuses the rest itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeship.config import Precision
from edgeship.errors import CacheError, MissingExtra, PrecisionError, UserInputError
from edgeship.prepare import compare, graph, modelopt
from edgeship.prepare.calibration_cache import UNLIMITED, Calibration
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.quantized_tensors import COMPUTING, SHARING, float_tensors, infer, limits, place, select
from edgeship.results import Artifact, Quantized

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.activations import Batch

ORT_OPERATORS = (COMPUTING | SHARING) - {"Identity", "Expand"}
"""What onnxruntime's Q/DQ covers: operators with an integer kernel, and data movement between them."""
Style = Literal["tensorrt", "onnxruntime"]
PRECISIONS: dict[Style, tuple[Precision, ...]] = {
    "onnxruntime": ("int8", "int8-fp32", "fp16"),
    "tensorrt": ("int8", "int8-fp16", "int8-fp32", "fp8", "fp16"),
}
"""What can be made for which engine. Anything else is refused, never replaced."""


@dataclass(frozen=True)
class Plan:
    """What to quantize and how. ``frames`` are real ones: the result is run on them and compared."""

    keep: tuple[str, ...] = ()
    per_channel: bool = True
    precision: Precision = "int8"
    layers: bool = True
    """Whether to record each layer's signal-to-noise."""


def quantize(
    model: Path, style: Style, calibration: Calibration | None, out: Path, frames: Iterable[Batch], plan: Plan
) -> Quantized:
    """Write the graph of ``plan.precision`` for an engine. ``fp16`` needs no calibration.

    Raises:
        PrecisionError: The engine has no such precision.
        CacheError: No cache, or a tensor that it lacks.
        DataError, UserInputError, ModelError, StageError: As the function for that engine.
    """
    if plan.precision not in PRECISIONS[style]:
        raise PrecisionError(
            f"{plan.precision} was asked for, {style} does not compute in it here",
            expected=", ".join(PRECISIONS[style]),
            do="choose one of these, or another engine",
        )
    if plan.precision == "fp16":
        return to_half(model, frames, out, plan.keep)
    if calibration is None:
        raise CacheError(
            f"{plan.precision} needs a calibration cache", do="make one with edgeship calibrate, give it with --cache"
        )
    run = quantize_onnxruntime if style == "onnxruntime" else quantize_tensorrt
    return run(model, calibration, out, frames, plan)


def quantize_onnxruntime(
    model: Path, calibration: Calibration, out: Path, frames: Iterable[Batch], plan: Plan | None = None
) -> Quantized:
    """Q/DQ for onnxruntime: uint8 asymmetric activations, int8 symmetric weights, int32 biases.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
        UserInputError: A keep pattern names nothing.
        ModelError, StageError: The result is not valid, or not finite on the frames.
    """
    plan = plan or Plan()
    reference = infer(graph.load_onnx(model))
    kept = select(reference, plan.keep)
    proto = ort_graph(reference, calibration, kept, per_channel=plan.per_channel)
    graph.check_onnx(proto, "the quantized graph")
    compared = compare.compare(reference, proto, frames, layers=plan.layers)
    graph.save_onnx(proto, out)
    return Quantized(
        model=Artifact.of(out, out.parent),
        precision=plan.precision,
        style="onnxruntime",
        kept=kept,
        quantized_nodes=count_quantized(proto),
        noise=compared.layers,
        output_snr_db=compared.outputs,
    )


def quantize_tensorrt(
    model: Path, calibration: Calibration, out: Path, frames: Iterable[Batch], plan: Plan | None = None
) -> Quantized:
    """Q/DQ for TensorRT 10 strongly typed, 11 and RTX, placed by ModelOpt, with the scales of the cache.

    ``int8`` and ``int8-fp16`` compute in FP16 outside the quantized layers, ``int8-fp32`` in FP32. ``fp8`` (E4M3,
    compute capability 8.9 and later) takes amax / 448 of the same ranges. ModelOpt runs one real batch, whose
    ranges are replaced; random data is never used.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
        DataError: No frames.
        UserInputError: A keep pattern names nothing.
        ModelError, StageError: The result is not valid, or not finite on the frames.
    """
    plan = plan or Plan(precision="int8-fp16")
    reference = infer(graph.load_onnx(model))
    kept = select(reference, plan.keep)
    first = next(iter(frames), None)
    fp8 = plan.precision == "fp8"
    high: Literal["fp16", "fp32"] = "fp32" if plan.precision == "int8-fp32" else "fp16"
    proto = modelopt.quantize(reference, first, kept, "fp8" if fp8 else "int8", high)
    set_scales(proto, reference, calibration, fp8=fp8)
    graph.check_onnx(proto, "the quantized graph")
    compared = compare.compare(reference, proto, frames, layers=plan.layers, optimize=False)
    graph.save_onnx(proto, out)
    return Quantized(
        model=Artifact.of(out, out.parent),
        precision=plan.precision,
        style="tensorrt",
        kept=kept,
        quantized_nodes=count_quantized(proto),
        noise=compared.layers,
        output_snr_db=compared.outputs,
    )


def set_scales(proto: onnx.ModelProto, reference: onnx.ModelProto, calibration: Calibration, *, fp8: bool) -> None:
    """Give every activation's Q/DQ pair the scale of the cache, in place; for FP8, amax / 448.

    ModelOpt 0.47 makes an FP8 graph from an int8 one by multiplying its scales with 448 / 127, where amax / 448 is
    amax / 127 times 127 / 448: most of E4M3's range stays unused. The scales of weights are set right too.

    Raises:
        CacheError: The cache lacks a tensor whose Q/DQ pair stands in the graph.
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


def ort_graph(
    reference: onnx.ModelProto, calibration: Calibration, kept: tuple[str, ...], *, per_channel: bool = True
) -> onnx.ModelProto:
    """The Q/DQ graph for onnxruntime, in memory. ``reference`` has names and inferred shapes and is not changed."""
    try:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    except ImportError as error:
        raise MissingExtra("quantizing for onnxruntime", error.name or "onnxruntime", "host") from error
    import onnx

    bounds = tensor_bounds(reference, calibration, kept)
    ranges = TensorsData(
        CalibrationMethod.MinMax,
        {name: (np.float32(low), np.float32(high)) for name, (low, high) in bounds.items()},
    )
    proto = onnx.ModelProto()
    proto.CopyFrom(reference)
    quantizer = QDQQuantizer(
        proto,
        per_channel,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        [],
        list(kept),
        sorted(ORT_OPERATORS),
        {"ForceQuantizeNoInputCheck": False},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    _give_each_its_weights(result)
    return result


def _give_each_its_weights(proto: onnx.ModelProto) -> None:
    """Copy INT8 weights that several nodes share, with their DequantizeLinear.

    onnxruntime 1.32 converts INT8 weights for exact arithmetic node by node and refuses to convert one twice.
    """
    import onnx

    weights = {item.name: item for item in proto.graph.initializer if item.data_type == onnx.TensorProto.INT8}
    nodes = list(proto.graph.node)
    makers = {item.output[0]: item for item in nodes if item.op_type == "DequantizeLinear" and item.input[0] in weights}
    added: list[onnx.NodeProto] = []
    seen: set[str] = set()
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in makers and name in seen:
                again, mark = onnx.NodeProto(), f"_copy{len(added)}"
                again.CopyFrom(makers[name])
                for number in {0, len(again.input) - 1} - {1}:  # the values and the zero point
                    copied = proto.graph.initializer.add()
                    copied.CopyFrom(weights[again.input[number]])
                    copied.name = again.input[number] = copied.name + mark
                again.name, again.output[0] = again.name + mark, name + mark
                node.input[index] = again.output[0]
                added.append(again)
            elif name in makers:
                seen.add(name)
    if added:
        del proto.graph.node[:]
        proto.graph.node.extend([*added, *nodes])


def tensor_bounds(
    reference: onnx.ModelProto, calibration: Calibration, kept: tuple[str, ...] = ()
) -> dict[str, tuple[float, float]]:
    """(low, high) of every tensor that onnxruntime's quantizer will ask for.

    Raises:
        CacheError: Tensors that the cache lacks, by name.
    """
    placement = place(reference)
    possible = limits(reference)
    wanted = {name: name for name in placement.observed} | placement.shared
    needed = _needed(reference, kept)
    found: dict[str, tuple[float, float]] = {}
    missing = []
    for name, root in wanted.items():
        bounds = calibration.bounds(root, possible.get(root, UNLIMITED))
        if bounds is not None:
            found[name] = bounds
        elif name in needed:
            missing.append(root)
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        raise CacheError(
            f"{calibration.path} lacks {len(set(missing))} of the tensors to quantize: {names[:300]}",
            expected="a scale for every tensor that quantization touches",
            do="calibrate this model again, or keep the nodes that read these tensors in high precision (--keep)",
        )
    return found


def _needed(reference: onnx.ModelProto, kept: tuple[str, ...]) -> set[str]:
    """Tensors that a node to be quantized reads or writes."""
    left = set(kept)
    names: set[str] = set()
    for node in reference.graph.node:
        if node.op_type in COMPUTING and node.name not in left:
            names.update([*node.input, *node.output])
    return names


def count_quantized(proto: onnx.ModelProto) -> int:
    """How many nodes, other than Q/DQ, read a dequantized tensor."""
    dequantized = {name for node in proto.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(
        1
        for node in proto.graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and dequantized.intersection(node.input)
    )


def style_named(text: str) -> Style:
    """An engine kind by name. Raises UserInputError with the names there are."""
    for style in PRECISIONS:
        if text == style:
            return style
    raise UserInputError(f"unknown engine {text!r}", expected=", ".join(PRECISIONS))


def precision_named(text: str) -> Precision:
    """A precision by name. Raises UserInputError with the names there are."""
    known = dict.fromkeys(precision for group in PRECISIONS.values() for precision in group)
    for precision in known:
        if text == precision:
            return precision
    raise UserInputError(f"unknown precision {text!r}", expected=", ".join(known))
