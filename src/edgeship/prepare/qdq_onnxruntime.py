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
    return result


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
