"""The graph of each candidate: the simplified one itself, or the one that a stage converts it to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edgeship.data.frames import FrameChoice, Frames, frames
from edgeship.errors import DataError
from edgeship.pipeline.calibration import CALIBRATE, graph_batch, known_batches
from edgeship.pipeline.candidates import converted, needs_calibration, resolved_precision
from edgeship.pipeline.frames import allow_corrupt, frame_source, remembering, which_set
from edgeship.pipeline.origins import graph_of, ranges_stage, require_improved
from edgeship.pipeline.prepare import FRAMES, SLIM
from edgeship.pipeline.qat import quantize_options
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.prepare import calibration_cache
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.fp16_rounding import round_in_place
from edgeship.prepare.quantize import quantize
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
            "model": graph_of(run, candidate, trials)[1],
            "precision": resolved_precision(candidate.precision, trials.target),
            "keep": candidate.keep,
            "reduced_range": candidate.reduced_range,
            "style": trials.style,
            "quantization": run.config.quantization.model_dump(mode="json", exclude={"keep"}),
            "rows": trials.target.batch.opt,
            "frames": dump(run.result(FRAMES)),
            "versions": versions("onnxruntime", "nvidia-modelopt", "onnx"),
        }
        if needs_calibration(candidate):
            stage = ranges_stage(candidate, trials)
            ranges = run.result(stage)
            depends["ranges"] = [ranges.ranges.sha256, ranges.cache.sha256, run.result(CALIBRATE).method]
        return depends

    place = PREVIEW if trials.preview else trials.style
    work = partial(make_graph, candidate=candidate, trials=trials)
    return Stage(f"quantize:{place}:{candidate.name}", Quantized, key, work)


def make_graph(run: Run, folder: Path, candidate: Candidate, trials: TargetTrials) -> Quantized:
    """A candidate's ONNX in ``folder/model.onnx``, checked on the known real frames.

    The preview of FP16 is a graph of float32 that rounds as FP16 does: no processor is a judge of FP16 itself.
    """
    require_improved(run, candidate, trials)
    model, out = graph_of(run, candidate, trials)[0], folder / MODEL
    precision = resolved_precision(candidate.precision, trials.target)
    known = known_batches(run)
    settings = run.config.quantization
    if precision == "fp16":
        made = to_half(model, known, out, candidate.keep, settings.allow_noise)
        return made.model_copy(update={"model": round_in_place(out)}) if trials.preview else made
    stage = ranges_stage(candidate, trials)
    loaded = calibration_cache.load(
        run.path(stage, run.result(stage).cache.path), calibration_cache.Expected(), trust=True
    )
    options = quantize_options(run.config, candidate, trials.target, precision)
    if candidate.trained:  # what it is compared with here is its own weights unrounded, which training left behind
        options = replace(options, allow_noise=tuple(info.name for info in run.result(SLIM).outputs))
    return quantize(model, loaded, out, known, replace(options, style=trials.style))


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
