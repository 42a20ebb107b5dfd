"""Chooses the calibration method: the one whose quantized graph is nearest to FP32 on frames held out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.prepare import compare, graph
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.float_nodes import float_nodes
from edgeship.prepare.frame_checks import FrameSource, Held, stacked
from edgeship.prepare.qdq_onnxruntime import ort_graph
from edgeship.prepare.qdq_tensorrt import set_scales, trt_graph
from edgeship.prepare.quantized_tensors import QuantizedTensors, Style, find_tensors
from edgeship.prepare.thresholds import METHODS
from edgeship.results import MethodScore, TensorRange

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

MAX_TRIAL = 64
"""Frames that each method is compared on, at most (whole batches)."""


@dataclass(frozen=True)
class Judging:
    """How methods are compared.

    ``holdout``: share of the batches held out to compare on. ``style``: the kind of engine whose graphs are compared.
    ``rows``: the target's usual batch, for TensorRT's graphs.
    """

    holdout: float
    style: Style
    rows: int


def choose_method(
    model: onnx.ModelProto, ranges: Mapping[str, TensorRange], frames: FrameSource, judging: Judging
) -> tuple[str, tuple[MethodScore, ...]]:
    """The best method, and every method's score.

    Where no frames are held out (a single batch, or ``holdout = 0``), the calibration frames themselves must serve.

    Raises:
        QuantizeError: ModelOpt cannot place Q/DQ nodes in the graph.
    """
    held = Held(frames, judging.holdout, inside=True)
    judges: Iterable[FrameBatch] = held if any(True for _ in held) else frames
    few = list(itertools.islice(judges, judging.rows))
    compared = compare.compare_outputs(
        model,
        _candidates(model, ranges, few, judging),
        judges,
        MAX_TRIAL,
        optimize=judging.style == "onnxruntime",
    )
    scores = tuple(
        MethodScore(method=name, snr_db=entry.output_snr_db, agreement=entry.agreement)
        for name, entry in compared.items()
    )
    return max(scores, key=lambda score: score.snr_db).method, scores


def _candidates(
    model: onnx.ModelProto, ranges: Mapping[str, TensorRange], frames: Sequence[FrameBatch], judging: Judging
) -> dict[str, onnx.ModelProto]:
    """The quantized graph of each method, for the kind of engine that was asked for."""
    touched = find_tensors(model)
    caches = {
        name: CalibrationCache(Path(name), scales_of(ranges, touched, name), dict(ranges), name) for name in METHODS
    }
    if judging.style == "onnxruntime":
        return {name: ort_graph(model, cache, float_nodes(model)) for name, cache in caches.items()}
    frame = stacked(frames, graph.inputs_of(model), judging.rows)
    first = trt_graph(model, caches[METHODS[0]], frame, float_nodes(model), "int8-fp32")
    made: dict[str, onnx.ModelProto] = {}
    for name, cache in caches.items():
        made[name] = type(first)()
        made[name].CopyFrom(first)
        set_scales(made[name], model, cache, fp8=False)
    return made


def scales_of(ranges: Mapping[str, TensorRange], touched: QuantizedTensors, method: str) -> dict[str, float]:
    """int8 scale of every tensor that quantization touches; one that was always zero gets the scale of ±1."""
    roots = {name: name for name in touched.observed} | touched.shared
    return {name: (ranges[root].amax[method] or 1.0) / 127.0 for name, root in roots.items()}
