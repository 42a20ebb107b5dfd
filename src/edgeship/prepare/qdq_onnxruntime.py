"""INT8 graphs for onnxruntime, by its own quantizer: uint8 activations around every operator with an integer kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import CacheError, MissingExtra
from edgeship.prepare.calibration_cache import UNLIMITED, CalibrationCache
from edgeship.prepare.quantized_tensors import COMPUTING, SHARING, find_tensors, limits

if TYPE_CHECKING:
    import onnx

ORT_OPERATORS = (COMPUTING | SHARING) - {"Identity", "Expand"}
"""What onnxruntime's Q/DQ covers: operators with an integer kernel, and data movement between them."""


def ort_graph(
    reference: onnx.ModelProto, calibration: CalibrationCache, kept: tuple[str, ...], *, per_channel: bool = True
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
    reference: onnx.ModelProto, calibration: CalibrationCache, kept: tuple[str, ...] = ()
) -> dict[str, tuple[float, float]]:
    """(low, high) of every tensor that onnxruntime's quantizer will ask for.

    Raises:
        CacheError: Tensors that the cache lacks, by name.
    """
    placement = find_tensors(reference)
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
