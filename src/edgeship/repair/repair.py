"""Repairs, step by step: FP32 graph and ranges in, FP32 graph and ranges out, judged by the INT8 graph they give."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.errors import DataError, StageError
from edgeship.prepare import calibration_cache, compare, graph
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.calibration_cache import CalibrationCache, Expected
from edgeship.prepare.float_nodes import float_nodes
from edgeship.prepare.frame_checks import Held
from edgeship.prepare.inferred_graph import infer, require_float, select
from edgeship.prepare.quantize import QuantizeOptions, rounded_graph
from edgeship.progress import Progress, silent
from edgeship.repair import adaround, bias
from edgeship.repair.pairs import Kind
from edgeship.repair.rounded import RoundedGraph
from edgeship.repair.scaling import scale_pairs
from edgeship.results import Artifact, Repaired
from edgeship.results.trial_folder import MODEL

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch, FrameSource

CACHE = "calib.cache"
HELD_SHARE = 0.33
"""Of the batches: on them INT8 before and after is compared with FP32."""
SAME_DB = 40.0
"""Equalized and smoothed graphs compute the same as before: at least this signal-to-noise, without any rounding."""
KINDS: dict[str, Kind] = {"equalize": "equalize", "smooth": "smooth"}
NOTHING = {
    "equalize": "equalize: no convolution hands channels of uneven range to convolutions alone, through nothing but "
    "ReLU, LeakyReLU, Clip from 0 or pooling",
    "smooth": "smooth: no layer normalization is read by matrix products with constant weights alone",
    "bias-correct": "bias-correct: no rounded layer has a bias",
    "adaround": "adaround: no rounded layer is better with other than the nearest steps",
}


@dataclass(frozen=True)
class Request:
    """What a repair needs."""

    steps: tuple[str, ...]
    """``equalize``, ``smooth``, ``bias-correct``, ``adaround``, in the order in which they are done."""
    model: Path
    """The simplified FP32 graph."""
    calibration: CalibrationCache
    frames: FrameSource
    """Real frames to repair and to judge on."""
    all_frames: FrameSource
    """The frames of the calibration: ranges are measured again where a step moves them."""
    calibrate: CalibrateOptions
    quantization: QuantizeOptions


@dataclass
class _Work:
    """The graph and its ranges, from step to step."""

    model: onnx.ModelProto
    calibration: CalibrationCache


def repair(request: Request, folder: Path, progress: Progress = silent) -> Repaired:
    """Do the steps, and compare INT8 before and after with FP32 on frames that no step looked at.

    Returns:
        The repaired FP32 graph and its cache in ``folder``, also where they are not better.

    Raises:
        DataError: No frames.
        StageError: A step that keeps what the graph computes did not.
        ModelError: The model is not FP32.
    """
    begin = time.perf_counter()
    fit, judges, held = _parts(request.frames)
    loaded = graph.load_onnx(request.model)
    require_float(loaded, request.model.name)
    reference = infer(loaded)
    work = _Work(_copy(reference), request.calibration)
    changed = {}
    with tempfile.TemporaryDirectory(prefix="edgeship-repair-") as scratch:
        for position, step in enumerate(request.steps):
            work, changed[step] = _step(request, step, work, fit, Path(scratch) / str(position), progress)
        _write(request, work, folder)
    options = request.quantization
    few = fit[: max(1, options.rows)]
    graphs = {
        "before": _int8(reference, request.calibration, few, options),
        "after": _int8(infer(work.model), work.calibration, few, options),
    }
    fused = options.style == "onnxruntime"
    before, after = (
        compare.compare(reference, made, judges, limit=compare.FRAMES * 8, layers=False, optimize=fused)
        for made in graphs.values()
    )
    same = compare.compare_outputs(reference, [("float", work.model)], judges, compare.FRAMES)["float"]
    return Repaired(
        model=Artifact.of(folder / MODEL, folder),
        cache=Artifact.of(folder / CACHE, folder),
        ranges=Artifact.of(calibration_cache.ranges_path(folder / CACHE), folder),
        changed=changed,
        style=options.style,
        frames=sum(len(ids) for ids, _ in fit),
        held_out=held,
        before_db=before.part_snr_db,
        after_db=after.part_snr_db,
        agreement_before=before.agreement,
        agreement_after=after.agreement,
        float_db=same.output_snr_db,
        seconds=time.perf_counter() - begin,
        notes=tuple(NOTHING[step] for step, count in changed.items() if not count),
    )


def _step(
    request: Request, step: str, work: _Work, fit: Sequence[FrameBatch], scratch: Path, progress: Progress
) -> tuple[_Work, int]:
    """One step's graph and ranges, and how many layers it changed."""
    model = _copy(work.model)
    kind = KINDS.get(step)
    if kind is not None:
        count = scale_pairs(model, fit, kind, per_channel=request.quantization.per_channel)
        if not count:
            return work, 0
        _require_same(work.model, model, fit, step)
        return _Work(model, _measured(request, model, scratch, progress)), count
    few = _first(fit, bias.FRAMES)
    rounded = RoundedGraph(infer(work.model), work.calibration, few, _in_float(request.quantization))
    does = bias.correct_biases if step == "bias-correct" else adaround.learn_rounding
    count = does(model, rounded, few, progress)
    graph.check_onnx(model, f"the graph after {step}")
    return _Work(model, work.calibration), count


def _in_float(options: QuantizeOptions) -> QuantizeOptions:
    """FP32 outside the rounded layers: what is repaired is INT8's error alone."""
    return replace(options, precision="int8-fp32" if options.style == "tensorrt" else options.precision)


def _int8(
    reference: onnx.ModelProto, calibration: CalibrationCache, few: Sequence[FrameBatch], options: QuantizeOptions
) -> onnx.ModelProto:
    kept = dict.fromkeys(select(reference, options.keep), "kept on request")
    return rounded_graph(reference, calibration, float_nodes(reference) | kept, few, _in_float(options))


def _measured(request: Request, model: onnx.ModelProto, scratch: Path, progress: Progress) -> CalibrationCache:
    """The ranges of a changed graph on all calibration frames, by the method that calibration chose."""
    scratch.mkdir()
    graph.save_onnx(model, scratch / MODEL)
    calibrate(scratch / MODEL, request.all_frames, scratch / CACHE, request.calibrate, progress)
    found = calibration_cache.load(scratch / CACHE, Expected())
    return replace(found, placements=request.calibration.placements)


def _require_same(before: onnx.ModelProto, after: onnx.ModelProto, frames: Sequence[FrameBatch], step: str) -> None:
    """Refuse a graph that answers otherwise than before without any rounding. Raises StageError."""
    graph.check_onnx(after, f"the graph after {step}")
    found = compare.compare_outputs(before, [("after", after)], frames, compare.FRAMES)["after"]
    if found.output_snr_db < SAME_DB:
        worst = min(found.outputs, key=lambda name: found.outputs[name])
        raise StageError(
            f"{step} changed what the model computes: {worst} is at {found.output_snr_db:.1f} dB",
            expected=f"at least {SAME_DB:.0f} dB: factors only move from one layer to the next",
            do=f"take {step} out of candidates.repair, and report it with the model",
        )


def _parts(frames: Iterable[FrameBatch]) -> tuple[list[FrameBatch], list[FrameBatch], int]:
    """The frames that steps look at, those that judge them, and how many of the latter no step has seen."""
    fit = list(Held(frames, HELD_SHARE, inside=False))
    judges = list(Held(frames, HELD_SHARE, inside=True))
    if not fit:
        raise DataError("no frames to repair INT8 with", do="name calibration.images")
    return fit, judges or fit, sum(len(ids) for ids, _ in judges)


def _first(frames: Sequence[FrameBatch], count: int) -> list[FrameBatch]:
    """Whole batches, spread over all, that hold ``count`` frames or a little more."""
    size = max(len(frames[0][0]), 1)
    wanted = -(-count // size)
    return list(itertools.islice(frames[:: max(1, len(frames) // wanted)], wanted))


def _write(request: Request, work: _Work, folder: Path) -> None:
    bare = _copy(work.model)
    bare.graph.ClearField("value_info")
    graph.check_onnx(bare, "the repaired graph")
    graph.save_onnx(bare, folder / MODEL)
    calibration_cache.save_derived(
        folder / CACHE, request.calibration, work.calibration, calibration_cache.graph_hash(bare)
    )


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin
