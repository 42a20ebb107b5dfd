"""Candidate graphs from one calibration: INT8 and FP8 with Q/DQ nodes for one kind of engine, and FP16.

The two kinds of Q/DQ graph differ. onnxruntime wants uint8 activations around every operator that has an integer
kernel; TensorRT wants symmetric int8 at the inputs of convolutions and matrix products, and fuses the rest itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeship.config import Precision
from edgeship.errors import CacheError, DataError, PrecisionError, QuantizeError, UserInputError
from edgeship.prepare import compare, graph
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.float_nodes import PRODUCTS, float_nodes, is_product, nested_products
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.fp16_rounding import rounded_twin
from edgeship.prepare.frame_checks import ROWS, stacked
from edgeship.prepare.inferred_graph import infer, require_float, select
from edgeship.prepare.qdq_onnxruntime import OrtForm, ort_graph
from edgeship.prepare.qdq_tensorrt import leave_out, trt_graph
from edgeship.prepare.quantized_tensors import Placement, Style
from edgeship.results import Artifact, Quantized

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

PRECISIONS: dict[Style, tuple[Precision, ...]] = {
    "onnxruntime": ("int8", "int8-fp32", "fp16"),
    "tensorrt": ("int8", "int8-fp16", "int8-fp32", "fp8", "fp16"),
}
"""What can be made for which engine. Anything else is refused, never replaced."""


@dataclass(frozen=True)
class QuantizeOptions:
    """What to quantize and how."""

    style: Style = "onnxruntime"
    precision: Precision = "int8"
    """``int8`` and ``int8-fp16`` for TensorRT compute in FP16 outside the quantized layers, ``int8-fp32`` in FP32."""
    keep: tuple[str, ...] = ()
    """Node names, shell patterns over them, or ``op:Kind``: left in high precision."""
    per_channel: bool = True
    layers: bool = True
    """Whether to record each layer's signal-to-noise."""
    placement: Placement | Literal["auto"] = "auto"
    """Where Q/DQ pairs go; ``auto``: where calibration saw the best signal for this kind of engine."""
    rows: int = ROWS
    """The target's usual batch (``target.batch.opt``): ModelOpt leaves products in float that gain nothing at it."""
    allow_noise: tuple[str, ...] = ()
    """Outputs that may fall below 10 dB."""
    reduced_range: bool = False
    """For onnxruntime: weights of 7 bits, whose products with uint8 cannot saturate on any processor."""


def quantize(
    model: Path,
    calibration: CalibrationCache | None,
    out: Path,
    frames: Iterable[FrameBatch],
    options: QuantizeOptions,
) -> Quantized:
    """Write the graph of ``options.precision`` for an engine, and compare it with the reference.

    Args:
        model: The FP32 ONNX file.
        calibration: Its ranges; ``fp16`` needs none.
        frames: Real frames in batches: the result is run on them. Random data is never used.

    Raises:
        PrecisionError: The engine has no such precision.
        CacheError: No cache, or it lacks a tensor that quantization needs.
        DataError: No frames.
        UserInputError: A keep pattern or an allowed output names nothing.
        ModelError: The model is not FP32, or the result is not a valid graph.
        QuantizeError: Nothing could be quantized, or an output is noise.
    """
    few = _few_frames(frames, options)
    if options.precision == "fp16":
        return to_half(model, few, out, options.keep, options.allow_noise)
    if calibration is None:
        raise CacheError(
            f"{options.precision} needs a calibration cache",
            do="make one with edgeship calibrate, give it with --cache",
        )
    loaded = graph.load_onnx(model)
    require_float(loaded, model.name)
    reference = infer(loaded, given=True)
    kept = select(reference, options.keep)
    left = float_nodes(reference) | dict.fromkeys(kept, "kept on request")
    proto = rounded_graph(reference, calibration, left, few, options)
    in_float = _products_in_float(reference, left)
    count = count_quantized(proto)
    if not count and not kept:
        raise nothing_quantized(options, in_float)
    graph.check_onnx(proto, "the quantized graph")
    runs = proto if options.style == "onnxruntime" else rounded_twin(proto)
    compared = compare.compare(reference, runs, few, layers=options.layers, optimize=options.style == "onnxruntime")
    compare.require_signal(compared, options.allow_noise, f"{options.precision} for {options.style}")
    graph.save_onnx(proto, out)
    return Quantized(
        model=Artifact.of(out, out.parent),
        precision=options.precision,
        style=options.style,
        placement=placement_of(calibration, options),
        reduced_range=options.reduced_range,
        kept=kept,
        quantized_nodes=count,
        products=sum(is_product(node) for node in reference.graph.node) + len(nested_products(reference)),
        in_float=in_float,
        noise=compared.layers,
        output_snr_db=compared.outputs,
        noisy=compared.noisy,
        notes=compared.notes,
    )


def placement_of(calibration: CalibrationCache, options: QuantizeOptions) -> Placement:
    """Where the Q/DQ pairs go: as asked, or as calibration measured."""
    measured = calibration.placements.get(options.style, "default")
    return measured if options.placement == "auto" else options.placement


def rounded_graph(
    reference: onnx.ModelProto,
    calibration: CalibrationCache,
    left: dict[str, str],
    few: Sequence[FrameBatch],
    options: QuantizeOptions,
) -> onnx.ModelProto:
    """The Q/DQ graph of ``options``, in memory.

    Args:
        reference: Names and types are inferred; it is not changed.
        left: Node name → why it stays in float; what the engine's writer leaves in float is added.
        few: Real frames, which ModelOpt runs once.

    Raises:
        CacheError: The cache lacks a tensor that quantization needs.
    """
    placement = placement_of(calibration, options)
    if options.style == "onnxruntime":
        return ort_graph(reference, calibration, left, OrtForm(options.per_channel, placement, options.reduced_range))
    frame = stacked(few, graph.inputs_of(reference), options.rows)
    proto = trt_graph(reference, calibration, frame, left, options.precision)
    leave_out(proto, placement)
    return proto


def _few_frames(frames: Iterable[FrameBatch], options: QuantizeOptions) -> list[FrameBatch]:
    """The frames that the graphs are compared on, once it is known that the engine computes in the precision."""
    if options.precision not in PRECISIONS[options.style]:
        raise PrecisionError(
            f"{options.precision} was asked for, {options.style} does not compute in it here",
            expected=", ".join(PRECISIONS[options.style]),
            do="choose one of these, or another engine",
        )
    if options.reduced_range and (options.style != "onnxruntime" or options.precision == "fp16"):
        raise PrecisionError(
            f"reduced range was asked for, of {options.precision} for {options.style}",
            expected="int8 for onnxruntime: its weights get 7 bits where a processor's kernels saturate",
            do="leave it out: no other kernels saturate",
        )
    few = list(itertools.islice(frames, max(compare.FRAMES, options.rows)))
    if not few:
        raise DataError(
            f"no frames to quantize for {options.style} with",
            expected="at least one real frame (random data is never used)",
            do="give the calibration frames with --images or --npz",
        )
    return few


def _products_in_float(reference: onnx.ModelProto, left: dict[str, str]) -> dict[str, str]:
    """The products among the nodes that stay in float."""
    products = {node.name for node in reference.graph.node if is_product(node)} | set(nested_products(reference))
    return {name: why for name, why in left.items() if name in products}


def nothing_quantized(options: QuantizeOptions, in_float: dict[str, str]) -> QuantizeError:
    """The error for an INT8 graph without a quantized node, with the reasons."""
    reasons = "; ".join(f"{name}: {why}" for name, why in itertools.islice(in_float.items(), 5))
    return QuantizeError(
        f"{options.precision} was asked for, and no layer of the graph is quantized for {options.style}, because "
        + (reasons or f"it holds none of {', '.join(sorted(PRODUCTS))}"),
        expected="at least one layer in INT8",
        do="ship it as fp32 or fp16: candidates.precisions",
    )


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


def placement_named(text: str) -> Placement | Literal["auto"]:
    """A placement by name. Raises UserInputError with the names there are."""
    known: tuple[Placement | Literal["auto"], ...] = ("auto", "default", "products", "residual-float")
    for placement in known:
        if text == placement:
            return placement
    raise UserInputError(f"unknown placement {text!r}", expected=", ".join(known))
