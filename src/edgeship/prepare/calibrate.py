"""Calibrate once, for every engine: one pass over real frames, the thresholds of four methods, one cache.

Nothing is stored but histograms, so memory does not grow with the frames. The cache is TensorRT's text format;
beside it are the ranges by every method and the binding (see :mod:`edgeship.prepare.calibration_cache`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Method
from edgeship.errors import ModelError, UserInputError
from edgeship.prepare import calibration_cache, graph, thresholds
from edgeship.prepare.activations import Observer
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.frame_checks import ROWS, FrameChecks, FrameSource, Held, Kept
from edgeship.prepare.histogram import Histogram, Histograms
from edgeship.prepare.inferred_graph import infer, require_float
from edgeship.prepare.methods import MAX_TRIAL, PLACED_ON, Judging, choose_method, choose_placement, scales_of
from edgeship.prepare.quantized_tensors import Placement, QuantizedTensors, Style, find_tensors
from edgeship.prepare.running import hands, in_order
from edgeship.prepare.thresholds import METHODS
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Calibrated, MethodScore, PlacementScore, TensorRange
from edgeship.version import __version__

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch


MOVED_LIMIT = 0.05
"""A threshold that changed by more than this share over the last quarter of the frames still moves."""
MOVING_SHARE = 0.1
"""Share of moving tensors beyond which more frames are advised."""
CLIP_FACTOR = 4.0
"""On evaluation frames a tensor clips more than expected beyond this multiple of its share in calibration …"""
CLIP_FLOOR = 1e-3
"""… and beyond this share of its values."""
NOT_GIVEN = "No evaluation images were given: clipping on them, and frames that are in both sets, were not checked."


@dataclass(frozen=True)
class CalibrateOptions:
    """Settings of one calibration."""

    method: Method = "auto"
    style: Style = "onnxruntime"
    """The kind of engine whose graphs the methods are compared by."""
    placement: bool = True
    """Whether to choose where the Q/DQ pairs of ``style`` go; else the default is taken."""
    rows: int = ROWS
    """The target's usual batch (``target.batch.opt``), for the TensorRT graphs of that comparison."""
    percentile: float = 99.99
    holdout: float = 0.125
    """``method = "auto"``: share of the batches held out to compare the methods on; the method once chosen, they count
    like the others."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """The settings that made the frames from images, as JSON values; empty: the frames came preprocessed."""
    frame_hashes: Mapping[str, str] = field(default_factory=dict)
    """Frame id → hash of its image file; other frames are hashed by their arrays."""
    evaluation: FrameSource | None = None
    """Evaluation frames, to count what clips on them."""
    evaluation_hashes: frozenset[str] = frozenset()
    """Hashes of the evaluation images, to find calibration frames among them."""
    unchecked: tuple[str, ...] = ()
    """What the caller cannot have checked on evaluation frames, and why: sentences for the report."""
    workers: int | None = None
    device: str = "cpu"
    """Where the forward pass runs and its values are counted: ``cpu`` or ``cuda:0``."""


def calibrate(
    model: Path, frames: FrameSource, out: Path, options: CalibrateOptions | None = None, progress: Progress = silent
) -> Calibrated:
    """Measure the range of every tensor that quantization touches, and write a cache.

    Args:
        model: The FP32 ONNX file.
        frames: Real frames, preprocessed; never random data.
        out: Path of the cache; its ranges and binding are written beside it.

    Raises:
        DataError: No frames, fewer than a batch, frames of another size, black frames, NaN in a frame.
        ModelError: NaN or infinity in an activation, or nothing to quantize.
    """
    options = options or CalibrateOptions()
    graph_sha256, proto, touched = _open(model)
    share = options.holdout if options.method == "auto" else 0.0
    checks = FrameChecks(graph.inputs_of(proto), options.frame_hashes)
    observer = Observer(proto, touched.observed, options.workers, options.device)
    kept = Kept(frames, options.holdout)
    seen, early, late = _observe(observer, checks, Held(kept, share, inside=False), len(frames), progress)
    checks.refuse_useless()
    used = checks.count
    ranges = _ranges(late, options)
    method, scores = _method(proto, ranges, kept, options, progress)
    if share:
        late = _count(observer, checks, kept.held(), len(frames), progress)
        ranges = _ranges(late, options)
    if checks.count > seen:
        ranges = _moved(ranges, early, method, options)
    ranges, clipping = _clipped(proto, ranges, late, method, options)
    scales = scales_of(ranges, touched, method)
    placement, placements = _placement(proto, CalibrationCache(out, scales, ranges, method), kept, options, progress)
    facts = {"method": method, "graph_sha256": graph_sha256, "placements": {options.style: placement}}
    calibration_cache.save(
        out, calibration_cache.Content(scales, ranges, checks.samples), facts | _binding(checks, options)
    )
    result = Calibrated(
        cache=Artifact.of(out, out.parent),
        ranges=Artifact.of(calibration_cache.ranges_path(out), out.parent),
        method=method,
        methods=scores,
        held_out=checks.count - used if scores else None,
        frames=checks.count,
        frames_sha256=checks.sha256,
        graph_sha256=graph_sha256,
        preprocess_sha256=calibration_cache.settings_hash(options.preprocess),
        placement=placement,
        placements=placements,
        tensors=len(ranges),
        moved_p95=_moved_p95(ranges),
        moving=tuple(name for name, entry in ranges.items() if (entry.moved or 0.0) > MOVED_LIMIT),
        clipping=clipping,
        overlap=checks.overlap(options.evaluation_hashes),
        unchecked=options.unchecked or (() if options.evaluation is not None else (NOT_GIVEN,)),
    )
    return result.model_copy(update={"advice": " ".join(_advice(result, ranges))})


def _method(
    proto: onnx.ModelProto, ranges: dict[str, TensorRange], kept: Kept, options: CalibrateOptions, progress: Progress
) -> tuple[str, tuple[MethodScore, ...]]:
    """The method that was asked for, or the best of all on the held-out frames."""
    if options.method != "auto":
        return options.method, ()
    progress(0, None, "comparing methods")
    return choose_method(proto, ranges, kept.judges(MAX_TRIAL), Judging(options.style, options.rows))


def _placement(
    proto: onnx.ModelProto, cache: CalibrationCache, kept: Kept, options: CalibrateOptions, progress: Progress
) -> tuple[Placement, tuple[PlacementScore, ...]]:
    """Where Q/DQ pairs go: the default, where no choice is asked for."""
    if not options.placement:
        return "default", ()
    progress(0, None, "comparing placements")
    return choose_placement(proto, cache, kept.judges(PLACED_ON), Judging(options.style, options.rows))


def _binding(checks: FrameChecks, options: CalibrateOptions) -> dict[str, object]:
    """What a cache is bound to beside its graph and its method."""
    return {
        "edgeship": __version__,
        "preprocess": options.preprocess,
        "preprocess_sha256": calibration_cache.settings_hash(options.preprocess),
        "frames_sha256": checks.sha256,
        "frames": checks.count,
    }


def _moved_p95(ranges: dict[str, TensorRange]) -> float | None:
    """How far 95 % of the ranges moved at most between the halves of the frames; None where that is not known."""
    moved = [entry.moved for entry in ranges.values() if entry.moved is not None]
    return round(float(np.percentile(moved, 95)), 6) if moved else None


def _open(model: Path) -> tuple[str, onnx.ModelProto, QuantizedTensors]:
    """The graph's hash, the graph with inferred shapes, and what quantization touches in it."""
    loaded = graph.load_onnx(model)
    require_float(loaded, model.name)
    graph_sha256 = calibration_cache.graph_hash(loaded)
    proto = infer(loaded, given=True)
    touched = find_tensors(proto)
    if not touched.observed:
        raise ModelError(
            f"{model} has no operator that can be quantized",
            expected="a convolution or a matrix product",
            do="ship it as fp32 or fp16: candidates.precisions",
        )
    return graph_sha256, proto, touched


def _count(
    observer: Observer, checks: FrameChecks, frames: Iterable[FrameBatch], total: int, progress: Progress
) -> Histograms:
    """Histograms after these frames too."""
    for _ in observer.observe(checks.passing(frames)):
        progress(checks.count, total, "calibrating")
    return observer.histograms()


def _observe(
    observer: Observer, checks: FrameChecks, frames: Iterable[FrameBatch], total: int, progress: Progress
) -> tuple[int, Histograms, Histograms]:
    """How many frames passed in the batches that reach three quarters, histograms after these, and after all."""
    batches = checks.passing(frames)
    done = 0
    found: list[tuple[int, Histograms]] = []
    for count in (0.75 * total, math.inf):
        for ids, _ in observer.observe(_until(batches, checks, count)):
            done += len(ids)
            progress(done, total, "calibrating")
        found.append((done, observer.histograms()))
    (seen, early), (_, late) = found
    return seen, early, late


def _until(batches: Iterator[FrameBatch], checks: FrameChecks, count: float) -> Iterator[FrameBatch]:
    """Batches until ``count`` frames have passed."""
    while checks.count < count and (batch := next(batches, None)) is not None:
        yield batch


def _ranges(histograms: Histograms, options: CalibrateOptions) -> dict[str, TensorRange]:
    def work(item: tuple[str, Histogram]) -> tuple[str, TensorRange]:
        return item[0], _range(item[1], options.percentile)

    return dict(in_order(work, histograms.items(), hands()))


def _range(histogram: Histogram, percentile: float) -> TensorRange:
    amax = {method: thresholds.symmetric(histogram, method, percentile) for method in METHODS}
    return TensorRange(
        low=histogram.low,
        high=histogram.high,
        amax=dict(amax),
        bounds={method: thresholds.asymmetric(histogram, method, percentile, amax[method]) for method in METHODS},
    )


# --- enough frames? ------------------------------------------------------------------------------------------


def _moved(
    ranges: dict[str, TensorRange], early: Histograms, method: str, options: CalibrateOptions
) -> dict[str, TensorRange]:
    """Note how far each chosen threshold changed over the last quarter of the frames."""

    def work(item: tuple[str, TensorRange]) -> tuple[str, TensorRange]:
        name, entry = item
        now = entry.amax[method]
        before = thresholds.symmetric(early[name], _known(method), options.percentile)
        return name, entry.model_copy(update={"moved": round(abs(now - before) / now, 6) if now else 0.0})

    return dict(in_order(work, ranges.items(), hands()))


def _known(method: str) -> thresholds.Method:
    return next(known for known in METHODS if known == method)


def _clipped(
    proto: onnx.ModelProto,
    ranges: dict[str, TensorRange],
    calibration: Histograms,
    method: str,
    options: CalibrateOptions,
) -> tuple[dict[str, TensorRange], tuple[str, ...]]:
    """Note what share of each tensor lies beyond its bounds on the evaluation frames, and which clip unexpectedly."""
    if options.evaluation is None or len(options.evaluation) == 0:
        return ranges, ()
    observer = Observer(proto, list(ranges), options.workers, options.device)
    for _ in observer.observe(FrameChecks(graph.inputs_of(proto), {}).passing(options.evaluation)):
        pass
    result, clipping = {}, []
    for name, histogram in observer.histograms().items():
        low, high = ranges[name].bounds[method]
        share = thresholds.clipped_share(histogram, low, high)
        usual = thresholds.clipped_share(calibration[name], low, high)
        if share > max(CLIP_FLOOR, CLIP_FACTOR * usual):
            clipping.append(name)
        result[name] = ranges[name].model_copy(update={"clipped": round(share, 8)})
    return result, tuple(clipping)


def _advice(result: Calibrated, ranges: Mapping[str, TensorRange]) -> Iterator[str]:
    """Plain sentences; none when all is well."""
    moving, clipping, overlap, tensors = result.moving, result.clipping, result.overlap, result.tensors
    zero = [name for name, entry in ranges.items() if entry.low == entry.high == 0.0]
    if len(moving) > MOVING_SHARE * tensors:
        yield (
            f"More frames are needed: after {result.frames}, {len(moving)} of {tensors} thresholds still moved by "
            f"more than {MOVED_LIMIT:.0%} over the last quarter."
        )
    if result.moved_p95 is None:
        yield (
            f"Whether {result.frames} frames are enough is not known: they came in too few batches to see whether the "
            "thresholds still move."
        )
    if result.held_out == 0:
        yield (
            "The methods were compared on the calibration frames themselves, none were held out (a single batch, or "
            "holdout = 0): every score in the table is too high."
        )
    if clipping:
        yield (
            f"Other frames are needed: {len(clipping)} of {tensors} tensors clip more on evaluation frames than "
            f"on calibration frames, first {clipping[0]!r}; the calibration frames do not cover them."
        )
    if overlap:
        yield (
            f"{len(overlap)} calibration frames are also in the evaluation set, for instance {overlap[0]}: "
            "the measured drop is too small by an unknown amount."
        )
    if zero:
        yield f"{len(zero)} tensors were zero on every frame, for instance {zero[0]!r}: their scale is not meaningful."


def method_named(text: str) -> Method:
    """A method by name. Raises UserInputError with the names there are."""
    known: tuple[Method, ...] = ("auto", *METHODS)
    for method in known:
        if text == method:
            return method
    raise UserInputError(f"unknown calibration method {text!r}", expected=", ".join(known))
