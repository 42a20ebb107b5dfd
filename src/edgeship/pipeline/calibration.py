"""Calibration and candidate graphs from the config: frames chosen, hashes bound, the right converter called."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Precision
from edgeship.data import datasets, rows
from edgeship.data.frames import FrameChoice, Frames, image_hash, not_comparable, spread
from edgeship.errors import DataError
from edgeship.files import sha256_json, storage_errors
from edgeship.pipeline import prepare
from edgeship.pipeline.stages import Run
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.quantize import QuantizeOptions, quantize
from edgeship.prepare.quantized_tensors import Style
from edgeship.results import Artifact, Calibrated, Candidate, Quantized, Slimmed, read

CACHE = "calib.cache"
EVALUATION_FRAMES = 64
"""Evaluation images on which clipping is counted."""


def calibrate_from_config(run: Run, folder: Path) -> Calibrated:
    """One pass over the calibration frames, or the cache that the config names.

    Raises:
        DataError: The frames are absent, unreadable or useless.
        CacheError: The cache belongs to something else.
    """
    settings = run.config.calibration
    model = run.path("slim", "model.onnx")
    if settings.cache is not None:
        return _adopt(run, settings.cache, folder)
    source = settings.images or settings.npz
    if source is None:
        prepare.require_calibration(run.config)
        raise DataError("no calibration frames", do="set calibration.images to frames from the deployment camera")
    batch = _batch(run, settings.batch)
    chosen = prepare.choose_frames(
        run, source, FrameChoice(settings.count, batch, settings.seed, allow_corrupt=settings.allow_corrupt)
    )
    options = CalibrateOptions(
        method=settings.method,
        percentile=settings.percentile,
        holdout=settings.holdout,
        preprocess_sha256=preprocess_hash(run),
        frame_hashes=dict(zip(chosen.ids, chosen.hashes, strict=True)),
        device=settings.device,
    )
    return calibrate(model, chosen, folder / CACHE, _with_evaluation(run, options, chosen), run.progress)


def preprocess_hash(run: Run) -> str:
    """What binds a cache to the preprocessing; empty when frames come ready."""
    return sha256_json(run.config.preprocess.model_dump(mode="json")) if run.config.preprocess is not None else ""


def _batch(run: Run, wanted: int) -> int:
    """The calibration batch; a graph with a fixed batch axis decides it."""
    first = run.result("slim", Slimmed).inputs[0].shape[0]
    return first if isinstance(first, int) else wanted


def _with_evaluation(run: Run, options: CalibrateOptions, chosen: Frames) -> CalibrateOptions:
    """The options with some of the evaluation images as frames, and the hashes of all."""
    if run.config.evaluation.images is None:
        return options
    items = rows.without_targets(datasets.open_dataset(run.config.evaluation).items)
    size = chosen.options.batch if isinstance(chosen.inputs[0].shape[0], int) else 1
    some = rows.take(items, spread(len(items), min(EVALUATION_FRAMES, len(items)) // size * size))
    loading = replace(chosen.options, allow_corrupt=EVALUATION_FRAMES)
    clipped = Frames(tuple(item.id for item in some), some, chosen.inputs, run.config.preprocess, loading)
    unchecked = not_comparable(chosen, replace(clipped, items=items))
    if not some:
        unchecked += (f"What clips on evaluation images was not checked: {len(items)} are no batch of {size}.",)
    hashes = (run.hasher.file(item.source) if isinstance(item.source, Path) else image_hash(item) for item in items)
    return replace(options, evaluation=clipped, evaluation_hashes=frozenset(hashes), unchecked=unchecked)


def _adopt(run: Run, source: Path, folder: Path) -> Calibrated:
    """Take a cache from elsewhere, if it belongs here or the config trusts it."""
    settings = run.config.calibration
    expected = calibration_cache.Expected(
        graph_sha256=calibration_cache.graph_hash(_graph(run)),
        preprocess_sha256=preprocess_hash(run) or None,
        method=settings.method if settings.method != "auto" else None,
    )
    loaded = calibration_cache.load(source, expected, trust=settings.trust_cache)
    bound = None if loaded.trusted else read(calibration_cache.Binding, calibration_cache.sidecar_path(source))
    with storage_errors(folder):
        shutil.copyfile(source, folder / CACHE)
        for beside in (calibration_cache.sidecar_path, calibration_cache.ranges_path, calibration_cache.samples_path):
            if bound is not None:
                shutil.copyfile(beside(source), beside(folder / CACHE))
    return Calibrated(
        cache=Artifact.of(folder / CACHE, folder),
        ranges=Artifact.of(_or(calibration_cache.ranges_path(folder / CACHE), folder / CACHE), folder),
        method=loaded.method,
        frames=bound.frames if bound is not None else 0,
        frames_sha256=bound.frames_sha256 if bound is not None else "",
        graph_sha256=calibration_cache.graph_hash(_graph(run)),
        preprocess_sha256=bound.preprocess_sha256 if bound is not None else "",
        tensors=len(loaded.scales),
        unchecked=("The ranges come from a cache: nothing was checked on evaluation images in this run.",),
        trusted_cache=loaded.trusted,
    )


def _or(path: Path, other: Path) -> Path:
    return path if path.is_file() else other


def _graph(run: Run) -> Any:
    from edgeship.prepare.graph import load_onnx

    return load_onnx(run.path("slim", "model.onnx"))


def make_graph(run: Run, folder: Path, candidate: Candidate, precision: Precision, style: Style) -> Quantized:
    """A candidate's ONNX in ``folder/model.onnx``, checked on the known real frames."""
    model, out = run.path("slim", "model.onnx"), folder / "model.onnx"
    frames = known_batches(run)
    if precision == "fp16":
        return to_half(model, frames, out, candidate.keep)
    calibrated = run.result("calibrate", Calibrated)
    loaded = calibration_cache.load(
        run.path("calibrate", calibrated.cache.path), calibration_cache.Expected(), trust=True
    )
    options = QuantizeOptions(style, precision, candidate.keep, run.config.quantization.per_channel)
    return quantize(model, loaded, out, frames, options)


def known_batches(run: Run) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """The known real frames as batches that the graph takes.

    Raises:
        DataError: The config names no images at all.
    """
    known = run.result("frames", prepare.KnownFrames)
    if known.arrays is None:
        raise DataError("no real frames", do="name calibration.images: converting precision is checked on real frames")
    with np.load(run.path("frames", known.arrays.path), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    size = _batch(run, len(known.ids))
    rows = max(len(known.ids) - len(known.ids) % size, size)
    batches = []
    for start in range(0, rows, size):
        feeds = {name: prepare.rows_of(array, start, size) for name, array in arrays.items()}
        batches.append((tuple(known.ids[start : start + size]), feeds))
    return batches


def frames_of(run: Run, count: int) -> Frames:
    """``count`` calibration (or evaluation) frames, for rankings.

    Raises:
        DataError: The config names no images at all.
    """
    source = prepare.frame_source(run.config)
    if source is None:
        raise DataError("no real frames", do="name calibration.images")
    choice = FrameChoice(count, _batch(run, 8), allow_corrupt=prepare.allow_corrupt(run.config))
    return prepare.choose_frames(run, source, choice)
