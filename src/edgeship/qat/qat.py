"""Quantization-aware training from a model and its calibration to trained weights, their graph and learned ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship import config
from edgeship.config import Qat
from edgeship.data.frames import Frames
from edgeship.data.reference import resolve
from edgeship.errors import DeviceError, EdgeshipError, ModelError, StageError, TrainingError
from edgeship.prepare import export, graph, model
from edgeship.prepare.calibration_cache import CalibrationCache, Expected, load
from edgeship.prepare.compare import Snr
from edgeship.prepare.graph import load_onnx
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.inputs import Known
from edgeship.prepare.joined import part_places
from edgeship.prepare.quantize import QuantizeOptions, quantize
from edgeship.prepare.running import Running
from edgeship.prepare.slim import Options, slim
from edgeship.progress import Progress, silent
from edgeship.qat.batches import Batch, Batches, FrameBatches, LoaderBatches, inputs_of, require_shapes, shuffled, split
from edgeship.qat.learned import save_learned
from edgeship.qat.losses import Distill, Loss, UserStep
from edgeship.qat.rounding import read_rounding
from edgeship.qat.student import Student, frozen, in_layout, make_student, plain_module
from edgeship.qat.team import Point, Team, leave
from edgeship.qat.train import Course, State, full_gpu, seed, train
from edgeship.results import Artifact, Trained

if TYPE_CHECKING:
    import onnx
    import torch

    from edgeship.prepare.frame_checks import FrameBatch

FLOATS = (1, 10, 11, 16)
"""Element types of ONNX: float32, float16, float64, bfloat16."""
LEAST_DB = 15.0
"""Signal-to-noise of the deployed graph against the trained program; where all is rounded in both it is above 35."""
WEIGHTS, MODEL, CACHE = "weights.safetensors", "model.onnx", "calib.cache"


@dataclass(frozen=True)
class Request:
    """What is trained.

    Args:
        settings: The ``[qat]`` table.
        model: The ``[model]`` table.
        root: The folder of the config.
        slim: The simplified FP32 graph of before training.
        calibration: Its ranges, from which training starts.
        quantization: How the deployed graph is made: coverage and rounding in training are its own.
        few: A few real frames, on which graphs are compared.
        frames: Frames to distill on, or to compare with FP32 on where a loader of the user's gives the batches.
        holdout: Share of ``frames`` that is held out.
        team: The processes that train together.
    """

    settings: Qat
    model: config.Model
    root: Path
    preprocess: config.Preprocess | None
    known: Known
    slim: Path
    calibration: CalibrationCache
    quantization: QuantizeOptions
    few: Sequence[FrameBatch]
    frames: Frames | None
    holdout: float
    team: Team = field(default_factory=Team)


def qat(request: Request, folder: Path, progress: Progress = silent) -> Trained:
    """Train, and write weights, graph and cache into ``folder``; a training killed there goes on.

    Raises:
        ModelError: The model does not load.
        TrainingError: The step, its loss, its batches or the model cannot be trained.
        DataError: A ``module:callable`` does not import, or raised.
        DeviceError: The device is not there.
        ProcessLost: Another process of the training ended.
    """
    learned = learn(request, folder, progress)
    progress(0, None, "exporting the trained model")
    _write(request, learned, folder)
    deployed_db = _require_same(request, learned, folder)
    return _result(request, learned, deployed_db, folder)


@dataclass(frozen=True)
class Learned:
    """A student that was trained, what it was made from, and the course of its training."""

    student: Student
    state: State
    reference: onnx.ModelProto
    names: tuple[str, ...]
    """The graph's inputs in the order of ``forward``."""


def learn(request: Request, folder: Path, progress: Progress = silent) -> Learned:
    """The first part of :func:`qat`, and the whole part of a process that is not the first of several.

    Args and Raises: see :func:`qat`. Processes that train together call it together.
    """
    made, failed = None, None
    try:
        made = _course(request, progress)
    except EdgeshipError as error:
        failed = error
    request.team.exchange(Point.READY, error=failed)
    assert made is not None
    student, course, reference = made
    with full_gpu():
        state = train(student, course, folder, progress)
    if request.team.size > 1:
        leave()
    return Learned(student, state, reference, tuple(name for name, _ in course.specs))


def _course(request: Request, progress: Progress) -> tuple[Student, Course, onnx.ModelProto]:
    """The student, what it is to learn, and the graph of before."""
    import torch

    progress(0, None, "placing fake quantizers")
    reference = infer(load_onnx(request.slim))
    deployed = _deployed(request, request.slim, request.calibration)
    loaded, program = _program(request)
    student = make_student(program, reference, read_rounding(deployed, reference))
    names = _call_order(loaded, reference)
    device = request.team.device(request.settings.device)
    _require_device(device)
    with full_gpu():
        teacher = frozen(plain_module(program)).to(device)
        if request.settings.amp:
            in_layout(teacher, torch.channels_last)
        distill = Distill(teacher, names, (), _places(request, reference))
        return student, _lessons(request, distill, device), reference


def _deployed(request: Request, source: Path, calibration: CalibrationCache) -> onnx.ModelProto:
    """The Q/DQ graph that is deployed, in FP32 beside INT8; outputs that are noise are what training is for."""
    options = request.quantization
    noisy = tuple(value.name for value in load_onnx(source).graph.output)
    precision: config.Precision = "int8" if options.style == "onnxruntime" else "int8-fp32"
    options = replace(options, precision=precision, layers=False, allow_noise=noisy)
    with tempfile.TemporaryDirectory(prefix="edgeship-qat-") as scratch:
        out = Path(scratch) / MODEL
        quantize(source, calibration, out, request.few, options)
        return load_onnx(out)


def _program(request: Request) -> tuple[model.Loaded, Any]:
    """The user's model and the decomposed program whose names the graph has."""
    loaded, _ = export.load_sized(request.model, request.root, request.preprocess)
    shapes, outputs = model.accepted_shapes(loaded, request.known.shapes)
    arrays = loaded.noise(shapes, seed=0)
    _, program, _ = export.to_onnx(loaded, arrays, [name for name, _ in outputs], request.model.opset)
    return loaded, program


def _places(request: Request, reference: onnx.ModelProto) -> dict[int, torch.Tensor]:
    """Which part of a joined output each value belongs to, by the number of the output among those of floats."""
    import torch

    found = part_places(reference, request.few[0][1])
    floats = [value.name for value in reference.graph.output if value.type.tensor_type.elem_type in FLOATS]
    return {number: torch.from_numpy(found[name]) for number, name in enumerate(floats) if name in found}


def _call_order(loaded: model.Loaded, reference: onnx.ModelProto) -> tuple[str, ...]:
    """The graph's inputs in the order of forward()."""
    names = tuple(value.name for value in reference.graph.input)
    if len(names) != len(loaded.inputs):
        raise TrainingError(
            f"the graph has the inputs {', '.join(names)}, the model {', '.join(loaded.inputs)}",
            expected="the same inputs",
            do="remove inputs that forward() does not use",
        )
    return names


def _lessons(request: Request, distill: Distill, device: str) -> Course:
    """What is trained on what, this process's share of it."""
    settings, frames, team = request.settings, request.frames, request.team
    names, specs = distill.names, _specs(request, distill.names)
    batches: Batches
    held_out: list[Batch] = []
    if frames is not None:
        rows, held = split(len(frames), request.holdout)
        size = frames.options.batch
        if settings.data is None and len(rows) < size * team.size:
            each = f" for each of {team.size} processes" if team.size > 1 else ""
            raise TrainingError(
                f"{len(frames)} frames, {len(held)} of them held out, are not one batch of {size}{each}",
                do="give more images, or a smaller qat.batch",
            )
        held_out = _tensors(shuffled(frames, held), names, whole=isinstance(specs[0][1][0], int))
        batches = FrameBatches(shuffled(frames, rows), names, settings.seed, team.rank, team.size)
    if settings.data is not None:
        batches = LoaderBatches(settings.data, resolve(settings.data), team.size)
    if settings.validation is not None:
        seed(settings.seed)
        held_out = list(LoaderBatches(settings.validation, resolve(settings.validation)).all())
    if not held_out:
        raise TrainingError(
            "there are no held-out batches to choose the best weights on",
            do="name qat.validation, or calibration.images",
        )
    if settings.step == "distill" or settings.validation is None:
        for batch in held_out:
            require_shapes(inputs_of(batch, names), specs)
        distill = distill.measured(held_out, device)
    loss: Loss = distill if settings.step == "distill" else UserStep(settings.step, resolve(settings.step))
    held_loss = distill if settings.validation is None else loss
    return Course(settings, batches, loss, held_out, held_loss, specs, team)


def _specs(request: Request, names: tuple[str, ...]) -> list[tuple[str, tuple[int | str, ...]]]:
    inputs = {info.name: info.shape for info in graph.inputs_of(load_onnx(request.slim))}
    return [(name, inputs[name]) for name in names]


def _tensors(frames: Frames, names: tuple[str, ...], *, whole: bool) -> list[tuple[torch.Tensor, ...]]:
    """The frames as batches; ``whole``: full ones only, because the graph's batch is fixed."""
    import torch

    found = [tuple(torch.from_numpy(feeds[name]) for name in names) for _, feeds in frames]
    return [part for part in found if not whole or len(part[0]) == frames.options.batch]


def _require_device(device: str) -> None:
    """Refuse a device that torch does not have. Raises DeviceError."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"qat.device is {device!r}, and torch sees no GPU here", do='set qat.device = "cpu"')


def _write(request: Request, learned: Learned, folder: Path) -> None:
    """Weights for the user's module; the graph by the normal path; the learned ranges.

    Raises:
        StageError: The trained model has another graph than before.
    """
    from safetensors.torch import save_file

    module = model.load_module(request.model, request.root)
    module.load_state_dict(learned.student.user_state(), strict=False)
    save_file({name: value.contiguous().clone() for name, value in module.state_dict().items()}, folder / WEIGHTS)
    settings = request.model.model_copy(update={"weights": folder / WEIGHTS, "weights_key": None})
    with tempfile.TemporaryDirectory(prefix="edgeship-qat-") as scratch:
        exported = Path(scratch) / MODEL
        export.export(settings, request.root, exported, request.preprocess, request.known)
        slim(exported, folder / MODEL, Options(request.known, request.model.free_batch))
    now = infer(load_onnx(folder / MODEL))
    before = [(node.op_type, list(node.output)) for node in learned.reference.graph.node]
    if [(node.op_type, list(node.output)) for node in now.graph.node] != before:
        raise StageError(
            "the trained model exports to another graph than before training",
            expected="the same operators and names: only weights were trained",
            do="report it with the model",
        )
    save_learned(folder / CACHE, request.calibration, learned.student.activations, now)


def _require_same(request: Request, learned: Learned, folder: Path) -> float:
    """Signal-to-noise of the worst output of the deployed graph against the student, on real frames, in dB."""
    import torch

    student, names = learned.student, learned.names
    cache = load(folder / CACHE, Expected())
    running = Running(_deployed(request, folder / MODEL, cache), optimize=False)
    scores: dict[int, Snr] = {}
    for _, feeds in request.few:
        with torch.no_grad():
            answers = model.flat_outputs(student.module(*(torch.from_numpy(feeds[name]) for name in names)))
        found = running.run(None, feeds)
        for index, ((_, wanted), given) in enumerate(zip(answers, found, strict=True)):
            if given.dtype.kind == "f":
                scores.setdefault(index, Snr()).add(wanted.numpy(), np.asarray(given))
    if not scores:
        raise ModelError("the model has no float output to compare", expected="at least one float32 output")
    worst = min(score.db for score in scores.values())
    if worst < LEAST_DB:
        raise StageError(
            f"the INT8 graph answers otherwise than the model as it was trained: {worst:.1f} dB",
            expected=f"at least {LEAST_DB:.0f} dB: both round the same tensors to the same grids",
            do=f"keep what was not rounded in training ({', '.join(student.missed[:5]) or 'nothing'}) with qat.keep",
        )
    return worst


def _result(request: Request, learned: Learned, deployed_db: float, folder: Path) -> Trained:
    settings, student, state = request.settings, learned.student, learned.state
    ranges = folder / "calib.ranges.json"
    judged = "the loss on qat.validation" if settings.validation else "distance to FP32 on held-out frames"
    data = settings.data or (str(settings.images) if settings.images is not None else "the calibration frames")
    first = state.curve[0].held_out
    return Trained(
        model=Artifact.of(folder / MODEL, folder),
        weights=Artifact.of(folder / WEIGHTS, folder),
        cache=Artifact.of(folder / CACHE, folder),
        ranges=Artifact.of(ranges, folder),
        how=f"{settings.step} on {Path(data).name if settings.data is None else data}",
        style=request.quantization.style,
        steps=state.total,
        best_step=state.best_step,
        judged_on=judged,
        held_out_before=first,
        held_out_after=min(point.held_out for point in state.curve),
        curve=tuple(state.curve),
        rounded=student.rounded,
        weighted=student.weighted,
        not_rounded=tuple(student.missed),
        deployed_snr_db=deployed_db,
        device=settings.device,
        processes=request.team.size,
        seconds=state.seconds,
        resumed_at=state.resumed_at,
    )
