"""The graph of each candidate: the simplified one itself, or the one that a stage converts it to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.data.feeds import batch_of
from edgeship.data.frames import FrameChoice, Frames, frames
from edgeship.errors import DataError
from edgeship.pipeline.calibration import CALIBRATE, graph_batch
from edgeship.pipeline.candidates import converted, needs_calibration, resolved_precision
from edgeship.pipeline.frames import allow_corrupt, frame_source, remembering, which_set
from edgeship.pipeline.prepare import FRAMES, SLIM
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.prepare import calibration_cache
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.quantize import QuantizeOptions, quantize
from edgeship.results import Candidate, Quantized, Slimmed
from edgeship.results.trial_folder import MODEL

PREVIEW = "preview"


def graph_stage(candidate: Candidate, trials: TargetTrials) -> Stage[Slimmed] | Stage[Quantized]:
    """The stage whose graph a candidate is built from."""
    if not converted(candidate):
        return SLIM
    return quantize_stage(candidate, trials)


def quantize_stage(candidate: Candidate, trials: TargetTrials) -> Stage[Quantized]:
    """The stage that makes a candidate's ONNX for a target, or for its preview."""

    def key(run: Run) -> Any:
        depends: dict[str, Any] = {
            "model": run.result(SLIM).model.sha256,
            "precision": resolved_precision(candidate.precision, trials.target),
            "keep": candidate.keep,
            "style": trials.style,
            "quantization": run.config.quantization.model_dump(mode="json", exclude={"keep"}),
            "rows": trials.target.batch.opt,
            "frames": dump(run.result(FRAMES)),
            "versions": versions("onnxruntime", "nvidia-modelopt", "onnx"),
        }
        if needs_calibration(candidate):
            calibrated = run.result(CALIBRATE)
            depends["ranges"] = [calibrated.ranges.sha256, calibrated.cache.sha256, calibrated.method]
        return depends

    place = PREVIEW if trials.preview else trials.style
    work = partial(make_graph, candidate=candidate, trials=trials)
    return Stage(f"quantize:{place}:{candidate.name}", Quantized, key, work)


def make_graph(run: Run, folder: Path, candidate: Candidate, trials: TargetTrials) -> Quantized:
    """A candidate's ONNX in ``folder/model.onnx``, checked on the known real frames."""
    model, out = run.path(SLIM, MODEL), folder / MODEL
    precision = resolved_precision(candidate.precision, trials.target)
    known = known_batches(run)
    settings = run.config.quantization
    if precision == "fp16":
        return to_half(model, known, out, candidate.keep, settings.allow_noise)
    calibrated = run.result(CALIBRATE)
    loaded = calibration_cache.load(
        run.path(CALIBRATE, calibrated.cache.path), calibration_cache.Expected(), trust=True
    )
    options = QuantizeOptions(
        trials.style,
        precision,
        candidate.keep,
        settings.per_channel,
        placement=settings.placement,
        rows=trials.target.batch.opt,
        allow_noise=settings.allow_noise,
    )
    return quantize(model, loaded, out, known, options)


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


def frames_of(run: Run, count: int) -> Frames:
    """``count`` calibration (or evaluation) frames, for rankings.

    Raises:
        DataError: The config names no images at all.
    """
    source = frame_source(run.config)
    if source is None:
        raise DataError("no real frames", do="name calibration.images")
    allowed, which = allow_corrupt(run.config), which_set(run.config)
    more = remembering(run.config, run.path(SLIM, MODEL))
    choice = FrameChoice(count, graph_batch(run, 8), allow_corrupt=allowed, which=which, **more)
    return frames(source, run.config.preprocess, run.result(SLIM).inputs, choice)
