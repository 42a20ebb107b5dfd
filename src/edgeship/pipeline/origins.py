"""The stages that repair INT8, and where a candidate's graph and ranges come from: calibration, repair, training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeship.data.frames import Frames
from edgeship.errors import DataError, QuantizeError
from edgeship.pipeline.calibration import CALIBRATE, calibrate_key, calibrate_options, calibration_frames
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.qat import QAT, quantize_options
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.prepare import calibration_cache
from edgeship.prepare.thresholds import METHODS
from edgeship.results import Artifact, Calibrated, Candidate, Repaired, Trained
from edgeship.results.trial_folder import MODEL

FRAMES = 96
"""Frames that a repair looks at and is judged on, of those of the calibration."""


def repair_stage(candidate: Candidate, trials: TargetTrials) -> Stage[Repaired]:
    """The stage that repairs the FP32 graph and the ranges of a candidate, for the rounding of a target's engine.

    Targets whose graphs round alike share it, and so do the plans of a search, which keep more nodes.
    """

    def key(run: Run) -> Any:
        calibrated = run.result(CALIBRATE)
        return {
            "steps": candidate.repair,
            "calibration": calibrate_key(run),
            "ranges": [calibrated.ranges.sha256, calibrated.cache.sha256],
            "quantization": dump(run.config.quantization),
            "style": trials.style,
            "rows": trials.target.batch.opt,
            "count": FRAMES,
            "versions": versions("torch", "onnxruntime", "nvidia-modelopt", "onnx", "numpy"),
        }

    def work(run: Run, folder: Path) -> Repaired:
        return _repair(run, folder, candidate, trials)

    return Stage(f"repair:{trials.style}:{'+'.join(candidate.repair)}", Repaired, key, work)


def _repair(run: Run, folder: Path, candidate: Candidate, trials: TargetTrials) -> Repaired:
    from edgeship.repair.repair import Request, repair  # loads onnx

    calibrated = run.result(CALIBRATE)
    base = calibration_cache.load(run.path(CALIBRATE, calibrated.cache.path), calibration_cache.Expected(), trust=True)
    whole = _frames(run, run.config.calibration.count)
    options = replace(calibrate_options(run, whole), placement=False)
    plain = candidate.model_copy(update={"keep": run.config.quantization.keep})
    rounding = quantize_options(run.config, plain, trials.target, "int8")
    if base.method in METHODS:
        options = replace(options, method=base.method)
    request = Request(
        steps=candidate.repair,
        model=run.path(SLIM, MODEL),
        calibration=base,
        frames=_frames(run, min(FRAMES, len(whole))),
        all_frames=whole,
        calibrate=options,
        quantization=replace(rounding, style=trials.style),
    )
    return repair(request, folder, run.progress)


def _frames(run: Run, count: int | None) -> Frames:
    settings = run.config.calibration
    source = settings.images or settings.npz
    if source is None:
        raise DataError("no frames to repair INT8 with", do="name calibration.images")
    return calibration_frames(run, source, count)


def ranges_stage(candidate: Candidate, trials: TargetTrials) -> Stage[Trained] | Stage[Repaired] | Stage[Calibrated]:
    """The stage whose cache holds a candidate's ranges for a target."""
    if candidate.repair:
        return repair_stage(candidate, trials)
    return QAT if candidate.trained else CALIBRATE


def graph_of(run: Run, candidate: Candidate, trials: TargetTrials) -> tuple[Path, str]:
    """The FP32 graph that a candidate is made from for a target, and its hash."""
    stage: Stage[Any] = ranges_stage(candidate, trials) if candidate.trained or candidate.repair else SLIM
    artifact: Artifact = run.result(stage).model
    return run.path(stage, MODEL), artifact.sha256


def require_improved(run: Run, candidate: Candidate, trials: TargetTrials) -> None:
    """Refuse a candidate that its training, or its repair, did not make better than calibration alone.

    Raises:
        QuantizeError: With the held-out figures of both.
    """
    if candidate.repair:
        _require_repaired(run.result(repair_stage(candidate, trials)))
    if not candidate.trained:
        return
    trained = run.result(QAT)
    if not trained.improved:
        after = min((point.held_out for point in trained.curve[1:]), default=trained.held_out_before)
        raise QuantizeError(
            f"training did not make INT8 better: {trained.judged_on} was {trained.held_out_before:.4g} with "
            f"calibration alone and {after:.4g} at best in {trained.steps} steps; the trained weights are "
            "kept and not shipped",
            do="try a smaller qat.lr, more qat.steps, or more data",
        )


def _require_repaired(found: Repaired) -> None:
    if found.improved:
        return
    why = "; ".join(found.notes)
    raise QuantizeError(
        f"{'+'.join(found.changed)} did not make INT8 better: {found.before_db:.2f} dB signal-to-noise with "
        f"calibration alone and {found.after_db:.2f} dB repaired, on {found.held_out or found.frames} frames"
        + (f" ({why})" if why else ""),
        expected="at least 0.1 dB more in the worst output",
        do="take it out of candidates.repair; try another repair, candidates.search, or [qat]",
    )
