"""The calibration stage: frames chosen, hashes bound, ranges measured or a cache taken over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Config
from edgeship.data import datasets, rows
from edgeship.data.beside import portable, single
from edgeship.data.feeds import batch_of, fixed_batch
from edgeship.data.frames import FrameChoice, Frames, frames, image_files, image_hash, not_comparable, spread
from edgeship.data.loader import Item
from edgeship.data.memory import ordered
from edgeship.data.rows import Items
from edgeship.errors import DataError
from edgeship.files import storage_errors
from edgeship.pipeline.candidates import candidates, needs_calibration, style_of
from edgeship.pipeline.frames import beside_hash, data_hash, remembering, require_calibration
from edgeship.pipeline.prepare import FRAMES, SLIM
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.graph import load_onnx
from edgeship.results import Artifact, Calibrated, read

CACHE = "calib.cache"
EVALUATION_FRAMES = 64
"""Evaluation images on which clipping is counted."""


def calibrate_key(run: Run) -> Any:
    """The graph, the frames, the preprocessing and the method; evaluation images for clipping and overlap, whatever
    their labels say and however many of them are evaluated."""
    settings = run.config.calibration
    source = settings.images or settings.npz
    evaluated = run.config.evaluation.images
    target = next(iter(run.config.all_targets().values()))
    return {
        "model": run.result(SLIM).model.sha256,
        "images": data_hash(run, source) if source is not None else None,
        "evaluation": data_hash(run, evaluated) if evaluated is not None else None,
        "preprocess": dump(run.config.preprocess),
        "beside": [beside_hash(run, "calibration"), beside_hash(run, "evaluation")],
        "calibration": settings.model_dump(mode="json", exclude={"images", "npz"}),
        "cache": run.hasher.file(settings.cache) if settings.cache is not None and settings.cache.is_file() else None,
        "target": [style_of(target), target.batch.opt],
        "versions": versions("onnxruntime", "numpy", "nvidia-modelopt"),
    }


def calibrate_from_config(run: Run, folder: Path) -> Calibrated:
    """One pass over the calibration frames, or the cache that the config names.

    Raises:
        DataError: The frames are absent, unreadable or useless.
        CacheError: The cache belongs to something else.
    """
    settings = run.config.calibration
    model = run.path(SLIM, "model.onnx")
    if settings.cache is not None:
        return _adopt(run, settings.cache, folder)
    source = settings.images or settings.npz
    if source is None:
        require_calibration(run.config)
        raise DataError("no calibration frames", do="set calibration.images to frames from the deployment camera")
    chosen = calibration_frames(run, source, settings.count)
    options = calibrate_options(run, chosen)
    return calibrate(model, chosen, folder / CACHE, _with_evaluation(run, options, chosen), run.progress)


def calibration_frames(run: Run, source: Path, count: int | None) -> Frames:
    """``count`` frames of the calibration (None: all), as the simplified graph takes them."""
    settings = run.config.calibration
    batch, more = graph_batch(run, settings.batch), remembering(run.config, run.path(SLIM, "model.onnx"))
    choice = FrameChoice(count, batch, settings.seed, allow_corrupt=settings.allow_corrupt, **more)
    return frames(source, run.config.preprocess, run.result(SLIM).inputs, choice)


def calibrate_options(run: Run, chosen: Frames) -> CalibrateOptions:
    """The settings of the calibration, for these frames; without evaluation frames."""
    settings = run.config.calibration
    target = next(iter(run.config.all_targets().values()))
    return CalibrateOptions(
        method=settings.method,
        percentile=settings.percentile,
        holdout=settings.holdout,
        preprocess=preprocess_facts(run),
        frame_hashes=dict(zip(chosen.ids, chosen.hashes, strict=True)),
        device=settings.device,
        style=style_of(target),
        rows=target.batch.opt,
    )


def preprocess_facts(run: Run) -> dict[str, Any]:
    """What a cache is bound to of the preprocessing; empty when frames come ready."""
    return portable(run.config.preprocess).model_dump(mode="json") if run.config.preprocess else {}


def graph_batch(run: Run, wanted: int) -> int:
    """``wanted`` rows, or the number that the graph has fixed."""
    inputs, steps = run.result(SLIM).inputs, run.config.preprocess
    one = steps is not None and single(inputs, steps)
    return fixed_batch(inputs) or (1 if one else wanted)


def known_batches(run: Run) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """The known real frames as batches that the graph takes.

    Raises:
        DataError: The config names no images at all.
    """
    known = run.result(FRAMES)
    if known.arrays is None:
        raise DataError("no real frames", do="name calibration.images: converting precision is checked on real frames")
    with np.load(run.path(FRAMES, known.arrays.path), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    size = graph_batch(run, len(known.ids))
    rows = max(len(known.ids) - len(known.ids) % size, size)
    batches = []
    for start in range(0, rows, size):
        feeds = batch_of(arrays, run.result(SLIM).inputs, size, start)
        batches.append((tuple(known.ids[start : start + size]), feeds))
    return batches


def _with_evaluation(run: Run, options: CalibrateOptions, chosen: Frames) -> CalibrateOptions:
    """The options with some of the evaluation images as frames, and the hashes of all."""
    if run.config.evaluation.images is None:
        return options
    items = pictures(run.config, run.config.evaluation.images)
    size = fixed_batch(chosen.inputs) or 1
    some = _some(run, items, min(EVALUATION_FRAMES, len(items)) // size * size)
    loading = replace(chosen.options, allow_corrupt=EVALUATION_FRAMES)
    names, steps = tuple(item.id for item in some), run.config.preprocess
    clipped = Frames(
        names, some, chosen.inputs, steps, loading, which="evaluation", group=chosen.group, opened=chosen.opened
    )
    unchecked = not_comparable(chosen, replace(clipped, items=items))
    if not some:
        unchecked += (f"What clips on evaluation images was not checked: {len(items)} are not a batch of {size}.",)
    hashes = (run.hasher.file(item.source) if isinstance(item.source, Path) else image_hash(item) for item in items)
    return replace(options, evaluation=clipped, evaluation_hashes=frozenset(hashes), unchecked=unchecked)


def _some(run: Run, items: Items, count: int) -> Items:
    """Evaluation images spread evenly; for a model with memory, whole sequences."""
    steps = run.config.preprocess
    if steps is not None and steps.state:
        return ordered(items, run.config.evaluation.model_copy(update={"limit": count}))[0]
    return rows.take(items, spread(len(items), count))


def pictures(config: Config, source: Path) -> Items:
    """All evaluation images, without what they should show; where values stand beside them, those that are labelled."""
    settings = config.evaluation
    if not source.is_dir() or (config.preprocess is not None and config.preprocess.fed()):
        return rows.without_targets(datasets.open_dataset(settings.model_copy(update={"limit": None})).items)
    masks = settings.labels
    return tuple(
        Item(path.relative_to(source).as_posix(), path)
        for path in image_files(source)
        if masks is None or not path.is_relative_to(masks)
    )


def _adopt(run: Run, source: Path, folder: Path) -> Calibrated:
    """Take a cache from elsewhere, if it belongs here or the config trusts it."""
    settings = run.config.calibration
    expected = calibration_cache.Expected(
        graph_sha256=calibration_cache.graph_hash(_graph(run)),
        preprocess=preprocess_facts(run) or None,
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
    return load_onnx(run.path(SLIM, "model.onnx"))


def has_int8(run: Run) -> bool:
    """Whether a candidate, or the search, rests on INT8 ranges."""
    return (
        run.config.qat is not None
        or run.config.candidates.search
        or any(needs_calibration(item) for item in candidates(run.config))
    )


CALIBRATE = Stage("calibrate", Calibrated, calibrate_key, calibrate_from_config, needed=has_int8)
