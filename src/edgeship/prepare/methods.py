"""Chooses the calibration method, and where Q/DQ pairs go: what is nearest to FP32 on frames held out."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.prepare import compare, graph
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.chance import surely_larger
from edgeship.prepare.float_nodes import float_nodes
from edgeship.prepare.frame_checks import stacked
from edgeship.prepare.large import too_large
from edgeship.prepare.qdq_onnxruntime import OrtForm, WeightGrids, ort_graph
from edgeship.prepare.qdq_tensorrt import leave_out, set_scales, trt_graph
from edgeship.prepare.quantized_tensors import WEIGHTED, Placement, QuantizedTensors, Style, find_tensors
from edgeship.prepare.running import Running
from edgeship.prepare.thresholds import METHODS
from edgeship.results import MethodScore, PlacementScore, TensorRange

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import Feeds, FrameBatch

PLACEMENTS: tuple[Placement, ...] = ("default", "products", "residual-float")
BETTER_DB = 1.0
"""Another placement must be nearer to FP32 than the default by this …"""
SLOWER = 1.05
"""… and, on onnxruntime, not surely slower than this share of its time."""
ROUNDS = 31
"""Rounds in which the placements are timed in turns."""
FEW_ROUNDS = 5
"""The same for a network whose runs take longer than ``TIMING_S`` together: the fewest that can tell."""
TIMING_S = 5.0
NORMALIZING = frozenset(("LayerNormalization", "Softmax", "InstanceNormalization", "GroupNormalization"))
"""Operators that TensorRT computes in FP16 between INT8 products: beside them, sums in FP16 cost nothing."""
MAX_TRIAL = 64
"""Frames that each method is compared on, at most (whole batches)."""
PLACED_ON = 16
"""Frames that each placement is compared on, at most (whole batches): a decibel shows on few."""


@dataclass(frozen=True)
class Judging:
    """How methods are compared.

    ``style``: the kind of engine whose graphs are compared.
    ``rows``: the target's usual batch, for TensorRT's graphs. ``grids``: the weights that all of them round alike.
    """

    style: Style
    rows: int
    grids: WeightGrids = field(default_factory=WeightGrids)


def choose_method(
    model: onnx.ModelProto, ranges: Mapping[str, TensorRange], judges: Iterable[FrameBatch], judging: Judging
) -> tuple[str, tuple[MethodScore, ...]]:
    """The best method, and every method's score.

    ``judges``: frames held out. Where there are none (a single batch, or ``holdout = 0``), the calibration frames
    themselves must serve.

    Raises:
        QuantizeError: ModelOpt cannot place Q/DQ nodes in the graph.
    """
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


def choose_placement(
    model: onnx.ModelProto, cache: CalibrationCache, judges: Iterable[FrameBatch], judging: Judging
) -> tuple[Placement, tuple[PlacementScore, ...]]:
    """The placement of Q/DQ pairs with the best signal at no loss of time, and every placement's score.

    On onnxruntime the graphs are timed here, in turns, where one could be taken in place of the default. TensorRT's
    cannot be: another placement than ModelOpt's is taken only for graphs with attention or layer normalization.

    Raises:
        QuantizeError: ModelOpt cannot place Q/DQ nodes in the graph.
    """
    few = list(itertools.islice(judges, judging.rows))
    optimize = judging.style == "onnxruntime"
    products: dict[Placement, int] = {}

    def counted() -> Iterator[tuple[Placement, onnx.ModelProto]]:
        for name, made in _placed(model, cache, few, judging):
            products[name] = products_in_int8(made)
            yield name, made

    compared = compare.compare_outputs(model, counted(), judges, PLACED_ON, optimize=optimize)
    scores = tuple(
        PlacementScore(
            placement=name,
            snr_db=compared[name].output_snr_db,
            products=products[name],
            agreement=compared[name].agreement,
        )
        for name in PLACEMENTS
    )
    if optimize and any(_nearer(score, scores[0]) for score in scores):
        graphs = compare.opened(_placed(model, cache, few, judging), optimize=True, packed=not too_large(model))
        scores = timed(scores, _times(graphs, few[0][1]))
    return _best(scores, free=any(node.op_type in NORMALIZING for node in model.graph.node)), scores


def _placed(
    model: onnx.ModelProto, cache: CalibrationCache, frames: Sequence[FrameBatch], judging: Judging
) -> Iterator[tuple[Placement, onnx.ModelProto]]:
    """The quantized graph of each placement, one at a time."""
    if judging.style == "onnxruntime":
        for name in PLACEMENTS:
            yield name, ort_graph(model, cache, float_nodes(model), OrtForm(placement=name), judging.grids)
        return
    frame = stacked(frames, graph.inputs_of(model), judging.rows)
    first = trt_graph(model, cache, frame, float_nodes(model), "int8-fp32")
    for name in PLACEMENTS:
        made = type(first)()
        made.CopyFrom(first)
        leave_out(made, name)
        yield name, made


def _best(scores: Sequence[PlacementScore], *, free: bool) -> Placement:
    """The default, unless another has as many products in INT8, a better signal and is not surely slower.

    Times that are not told apart leave it to the signal: what else the machine does meanwhile cannot take a better one.

    ``free``: whether placements that cannot be timed may be taken.
    """
    default = scores[0]
    best = default
    for score in scores[1:]:
        no_slower = free if score.slower is None else not score.slower
        if no_slower and _nearer(score, default) and score.snr_db > best.snr_db:
            best = score
    return best.placement


def _nearer(score: PlacementScore, default: PlacementScore) -> bool:
    """Whether a placement has as many products in INT8 and a better signal: only its time can speak against it."""
    return score.products == default.products and score.snr_db >= default.snr_db + BETTER_DB


def timed(scores: Sequence[PlacementScore], rounds: Mapping[Placement, Sequence[float]]) -> tuple[PlacementScore, ...]:
    """The scores with what rounds of milliseconds tell of each placement beside the first, the default."""
    base = rounds[scores[0].placement]
    return tuple(
        score.model_copy(
            update={
                "ms": round(statistics.median(rounds[score.placement]), 4),
                "slower": surely_larger(rounds[score.placement], [SLOWER * ms for ms in base]),
            }
        )
        for score in scores
    )


def _times(opened: Mapping[Placement, Running], feeds: Feeds) -> dict[Placement, list[float]]:
    """Milliseconds of each graph on one batch, round by round; every other round in reverse order."""
    found: dict[Placement, list[float]] = {name: [] for name in opened}
    names = tuple(opened)
    for running in opened.values():
        running.run(None, feeds)
    begin = time.perf_counter()
    for turn in range(ROUNDS):
        if turn >= FEW_ROUNDS and time.perf_counter() - begin > TIMING_S:
            break
        for name in names[::-1] if turn % 2 else names:
            start = time.perf_counter()
            opened[name].run(None, feeds)
            found[name].append((time.perf_counter() - start) * 1e3)
    return found


def products_in_int8(model: onnx.ModelProto) -> int:
    """How many convolutions and matrix products read rounded values."""
    rounded = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return sum(bool(rounded.intersection(node.input[:2])) for node in model.graph.node if node.op_type in WEIGHTED)


def _candidates(
    model: onnx.ModelProto, ranges: Mapping[str, TensorRange], frames: Sequence[FrameBatch], judging: Judging
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The quantized graph of each method, for the kind of engine that was asked for; one at a time."""
    touched = find_tensors(model)
    caches = {
        name: CalibrationCache(Path(name), scales_of(ranges, touched, name), dict(ranges), name) for name in METHODS
    }
    if judging.style == "onnxruntime":
        for name, cache in caches.items():
            yield name, ort_graph(model, cache, float_nodes(model), grids=judging.grids)
        return
    frame = stacked(frames, graph.inputs_of(model), judging.rows)
    made = trt_graph(model, caches[METHODS[0]], frame, float_nodes(model), "int8-fp32")
    for name, cache in caches.items():
        set_scales(made, model, cache, fp8=False)
        yield name, made


def scales_of(ranges: Mapping[str, TensorRange], touched: QuantizedTensors, method: str) -> dict[str, float]:
    """int8 scale of every tensor that quantization touches; one that was always zero gets the scale of ±1."""
    roots = {name: name for name in touched.observed} | touched.shared
    return {name: (ranges[root].amax[method] or 1.0) / 127.0 for name, root in roots.items()}
