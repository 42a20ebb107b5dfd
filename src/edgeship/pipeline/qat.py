"""The training stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.config import Config, Precision, Qat, Target
from edgeship.data.frames import FrameChoice, Frames, frames, image_hash, not_comparable
from edgeship.errors import ConfigError, DataError
from edgeship.pipeline.calibration import CALIBRATE, graph_batch, known_batches, pictures
from edgeship.pipeline.candidates import style_of, trained_candidate
from edgeship.pipeline.frames import beside_hash, data_hash
from edgeship.pipeline.prepare import FRAMES, SLIM, export_key, known_inputs, model_of
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.pipeline.user_code import code_hashes
from edgeship.prepare import calibration_cache
from edgeship.prepare.quantize import QuantizeOptions
from edgeship.results import Candidate, Trained, read, write
from edgeship.results.trial_folder import MODEL

if TYPE_CHECKING:
    from edgeship.qat.qat import Request

NEEDED: tuple[Stage[Any], ...] = (SLIM, FRAMES, CALIBRATE)
"""Stages whose results a training takes."""


def qat_key(run: Run) -> Any:
    """The model of before, its ranges, the settings, the data, the user's code and how the graph is deployed."""
    settings, config = _settings(run.config), run.config
    source = _source(config)
    target = next(iter(config.all_targets().values()))
    calibrated = run.result(CALIBRATE)
    return {
        "export": export_key(run),
        "model": run.result(SLIM).model.sha256,
        "ranges": [calibrated.ranges.sha256, calibrated.cache.sha256],
        "qat": settings.model_dump(mode="json", exclude={"images"}),
        "images": data_hash(run, source) if source is not None else None,
        "preprocess": dump(config.preprocess),
        "beside": beside_hash(run, "calibration"),
        "quantization": dump(config.quantization),
        "holdout": config.calibration.holdout,
        "target": [style_of(target), target.batch.opt],
        "frames": dump(run.result(FRAMES)),
        "code": code_hashes(run, settings.step, settings.data, settings.validation),
        "versions": versions("torch", "onnxruntime", "nvidia-modelopt", "onnx"),
    }


def qat_work(run: Run, folder: Path) -> Trained:
    """Train. A killed training goes on; one of another state of code, data or settings stays as it is."""
    from edgeship.qat.qat import qat  # loads torch

    request = _request(run)
    notes = _require_apart(run, request.frames)
    request.team.tell({QAT.name: str(folder), **{stage.name: str(run.folders[stage.name]) for stage in NEEDED}})
    result = qat(request, folder, run.progress)
    result = result.model_copy(update={"notes": (*result.notes, *notes, *left_over(folder))})
    write(result, folder / QAT.file)
    return result


def left_over(folder: Path) -> tuple[str, ...]:
    """A note for each unfinished training beside ``folder``: another state of things has a folder of its own."""
    others = [place for place in sorted(folder.parent.glob("qat-*")) if place != folder]
    return tuple(
        f"An unfinished training of another state of code, data or settings stays in stages/{place.name}."
        for place in others
        if any(place.glob("checkpoint-*"))
    )


def take_part(run: Run, told: dict[str, str]) -> None:
    """Train beside the first process, which told where the stages before and the training itself lie.

    Raises:
        EdgeshipError: What stopped the training in one of the processes.
    """
    from edgeship.qat.qat import learn  # loads torch

    for stage in NEEDED:
        run.folders[stage.name] = Path(told[stage.name])
        run.results[stage.name] = read(stage.result, run.path(stage, stage.file))
    learn(_request(run), Path(told[QAT.name]))


def _request(run: Run) -> Request:
    """What is trained, from the config and the stages before."""
    from edgeship.qat.qat import Request
    from edgeship.qat.team import Team

    config, settings = run.config, _settings(run.config)
    target = next(iter(config.all_targets().values()))
    calibrated = run.result(CALIBRATE)
    candidate = trained_candidate(settings, config.quantization.keep)
    return Request(
        settings=settings,
        model=model_of(config),
        root=config.root,
        preprocess=config.preprocess,
        known=known_inputs(config),
        slim=run.path(SLIM, MODEL),
        calibration=calibration_cache.load(
            run.path(CALIBRATE, calibrated.cache.path), calibration_cache.Expected(), trust=True
        ),
        quantization=quantize_options(config, candidate, target, "int8"),
        few=known_batches(run),
        frames=_frames(run),
        holdout=config.calibration.holdout,
        team=run.team or Team(),
    )


def _require_apart(run: Run, chosen: Frames | None) -> tuple[str, ...]:
    """Refuse evaluation images among the frames to train on; what could not be compared is told.

    Raises:
        DataError: Names one of them.
    """
    config = run.config
    evaluated = config.evaluation.images
    if evaluated is None:
        return ()
    notes = []
    if _settings(config).data is not None:
        notes.append("Whether qat.data gives evaluation images was not checked: it is a loader of your own.")
    if chosen is None:
        return tuple(notes)
    items = pictures(config, evaluated)
    other = Frames(tuple(item.id for item in items), items, chosen.inputs, chosen.preprocess, chosen.options)
    if not_comparable(chosen, other):
        return (*notes, "Whether frames to train on are evaluation images was not checked: one set is arrays.")
    known = {run.hasher.file(item.source) if isinstance(item.source, Path) else image_hash(item) for item in items}
    found = [name for name, digest in zip(chosen.ids, chosen.hashes, strict=True) if digest in known]
    if found:
        raise DataError(
            f"{len(found)} of {len(chosen)} frames to train on are evaluation images, for instance {found[0]}",
            expected="frames that the evaluation does not use: training on them makes every figure too good",
            do="remove them from qat.images (default: calibration.images)",
        )
    return tuple(notes)


def _settings(config: Config) -> Qat:
    if config.qat is None:
        raise ConfigError(["qat: missing"], where=str(config.file))
    return config.qat


def _source(config: Config) -> Path | None:
    """Where frames to distill on, or to compare with FP32 on, come from."""
    return _settings(config).images or config.calibration.images or config.calibration.npz


def _frames(run: Run) -> Frames | None:
    """All frames of the source; None where there are none, or where loaders of the user's train and judge."""
    settings, source = _settings(run.config), _source(run.config)
    if source is None or (settings.validation is not None and settings.data is not None):
        return None
    steps = run.config.preprocess
    if steps is not None and steps.state:
        raise DataError(
            "the model remembers earlier frames, and training takes frames in any order",
            expected="a model without [preprocess.state]",
            do='remove [qat], or train in your own code and give the Q/DQ ONNX as precisions = ["as-given"]',
        )
    choice = FrameChoice(None, graph_batch(run, settings.batch), allow_corrupt=run.config.calibration.allow_corrupt)
    return frames(source, run.config.preprocess, run.result(SLIM).inputs, choice)


def quantize_options(config: Config, candidate: Candidate, target: Target, precision: Precision) -> QuantizeOptions:
    """How a candidate's INT8 graph for a target is made."""
    settings = config.quantization
    return QuantizeOptions(
        style_of(target),
        precision,
        candidate.keep,
        settings.per_channel,
        placement=settings.placement,
        rows=target.batch.opt,
        allow_noise=settings.allow_noise,
        reduced_range=candidate.reduced_range,
    )


QAT = Stage("qat", Trained, qat_key, qat_work, needed=lambda run: run.config.qat is not None, in_place=True)
