"""The training loop: steps, a held-out look now and then, the best state kept, a checkpoint to go on from."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeship.config import Qat
from edgeship.errors import DeviceError, EdgeshipError, StageError, TrainingError
from edgeship.progress import Progress, silent
from edgeship.qat import checkpoint
from edgeship.qat.batches import Batch, Batches, FrameBatches, ahead, fingerprint, inputs_of, on_device, require_shapes
from edgeship.qat.losses import Distill, Loss, summed_loss
from edgeship.qat.student import QUANTIZERS, Student, in_layout
from edgeship.qat.team import Point, Team
from edgeship.results import TrainedPoint

EPOCHS = 3
LOOKS = 20
"""Looks at the held-out batches in a training, at most."""
CHECKPOINT_S = 30.0
LARGE = 64 << 20
"""Bytes of a state that is written only every :data:`CHECKPOINT_S` and at the end, not at every look."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""
RANGE_FACTOR = 10.0
"""A range learns its logarithm, a weight its value, which is much smaller than 1: the rate of ranges is larger."""
LONGEST = 1.0
"""Norm to which gradients are cut."""


@dataclass(frozen=True)
class Course:
    """What is trained on what."""

    settings: Qat
    batches: Batches
    loss: Loss
    held_out: Sequence[Batch]
    held_out_loss: Loss
    specs: Sequence[tuple[str, Sequence[int | str]]]
    """Name and shape of every input, in call order."""
    team: Team = field(default_factory=Team)
    """The processes that train together; ``batches`` are this one's share."""


@dataclass
class State:
    """Where a training is."""

    step: int = 0
    total: int = 0
    best_step: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    curve: list[TrainedPoint] = field(default_factory=list)
    resumed_at: int | None = None
    seconds: float = 0.0


def train(student: Student, course: Course, folder: Path, progress: Progress = silent) -> State:
    """Train ``student`` in place and leave it in its best state.

    Several processes take the mean of their gradients in every step, and look at the held-out batches together: they
    have the same state at every step. The first one writes.

    Args:
        folder: Where checkpoints are written; a training that was killed goes on from the newest.

    Raises:
        TrainingError: The step, its loss or its batches cannot be trained on, or nothing changed.
        ProcessLost: Another process ended.
    """
    return _Training(student, course, folder, progress).run()


class _Training:
    def __init__(self, student: Student, course: Course, folder: Path, progress: Progress) -> None:
        self._student, self._course, self._folder, self._progress = student, course, folder, progress
        self._settings, self._team = course.settings, course.team
        self._device = self._team.device(self._settings.device)
        self._model = student.module.to(self._device)
        if self._settings.amp:
            in_layout(self._model, torch.channels_last)  # of FP16 convolutions on a GPU
        for quantizer in student.activations.values():
            quantizer.processes = self._team.size
        self._trained = [item for item in self._model.parameters() if item.requires_grad]
        if not self._trained:
            raise TrainingError("the model has no parameter that requires a gradient", do="freeze only some of them")
        self._optimizer = _optimizer(self._settings, self._model)
        self._scaler = torch.amp.GradScaler(self._device.partition(":")[0], enabled=self._settings.amp)
        self._state = State()
        self._sum, self._count = 0.0, 0
        self._saved = time.monotonic()
        self._random: torch.Tensor | None = None

    def run(self) -> State:
        """The whole course."""
        begun = time.monotonic()
        seed(self._settings.seed)
        self._resume()
        state = self._state
        before = state.seconds
        if not state.curve:
            self._first_look()
        for batch in self._drawn():
            self._one_step(batch)
            if state.step % max(1, state.total // LOOKS) == 0 or state.step == state.total:
                self._look()
            if time.monotonic() - self._saved > CHECKPOINT_S:
                state.seconds = before + time.monotonic() - begun
                self._save()
            if state.step == state.total:
                break
        state.seconds = before + time.monotonic() - begun
        self._require_change()
        self._load(state.best)
        self._model.to("cpu")
        in_layout(self._model, torch.contiguous_format)
        self._require_equal()
        if self._team.rank == 0:
            checkpoint.remove(self._folder)
        return state

    # --- steps ---------------------------------------------------------------------------------------------------

    def _drawn(self) -> Iterator[Batch | EdgeshipError]:
        """The batches from where the training is; what stops them comes as the last one, for all processes to know."""
        try:
            yield from self._upcoming()
        except EdgeshipError as error:
            yield error

    def _steps(self) -> int:
        """How many steps there are: as many as the process with the fewest batches has."""
        steps, epochs = self._settings.steps, self._settings.epochs or EPOCHS
        batches = self._course.batches
        if steps is not None:
            return steps
        if isinstance(batches, FrameBatches):
            return epochs * len(batches)
        if self._state.total:
            return self._state.total
        rows = self._team.exchange(Point.TOTAL, epochs * sum(1 for _ in batches.steps()))
        total = int(min(row[0] for row in rows))
        if total == 0:
            raise self._nothing()
        return total

    def _nothing(self) -> TrainingError:
        each = f" in each of {self._team.size} processes" if self._team.size > 1 else ""
        return TrainingError(
            "the data gives no batch to train on",
            expected=f"at least one batch of {self._settings.batch}{each}",
            do="give more images, or a smaller qat.batch",
        )

    def _epoch(self, number: int) -> Iterator[Batch]:
        """This process's batches of an epoch; a loader has to give all processes the same ones to share."""
        batches, team = self._course.batches, self._team
        if isinstance(batches, FrameBatches):
            made = batches.epoch(number)
            yield from ahead(made) if self._device.startswith("cuda") else made
            return
        for index, step in enumerate(batches.steps()):
            if index == 0 and len({row[0] for row in team.exchange(Point.EPOCH, fingerprint(step))}) > 1:
                raise TrainingError(
                    f"{batches.name} gives each process other batches",
                    expected="the same ones in the same order in all: each takes its share of them",
                    do="shuffle by torch's, numpy's or Python's random numbers, whose seeds are set, and do not split "
                    "the data by rank",
                )
            yield step[team.rank]

    def _upcoming(self) -> Iterator[Batch]:
        """The batches from where the training is; sets how many steps there are."""
        state, number, seen = self._state, 0, 0
        state.total = self._steps()
        while state.step < state.total:
            before = seen
            seed(self._settings.seed + number)  # a loader that shuffles does it again after a kill
            given = self._epoch(number)
            while True:
                if seen == state.step and self._random is not None:
                    torch.set_rng_state(self._random)
                    self._random = None
                batch = next(given, None)
                if batch is None:
                    break
                seen += 1
                if seen > state.step:
                    yield batch
            number += 1
            if seen == before:
                raise self._nothing()

    def _loss(self, batch: Batch | EdgeshipError) -> torch.Tensor:
        """The loss of this process's batch."""
        course = self._course
        if isinstance(batch, EdgeshipError):
            raise batch
        if isinstance(course.loss, Distill):
            require_shapes(inputs_of(batch, [name for name, _ in course.specs]), course.specs)
        with _autocast(self._settings), full_gpu():
            loss = course.loss(self._model, on_device(batch, self._device))
        if not loss.requires_grad:
            raise TrainingError(
                "the loss does not depend on the model's weights",
                expected="a loss computed from what model(...) returns, without detach() or no_grad()",
            )
        return loss

    def _one_step(self, batch: Batch | EdgeshipError) -> None:
        state = self._state
        rate = learning_rate(self._settings, state.step, state.total)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss, failed = torch.zeros(()), None
        try:
            loss = self._loss(batch)
        except EdgeshipError as error:
            failed = error
        rows = self._team.exchange(Point.STEP, float(loss.detach()), error=failed)
        value = sum(row[0] for row in rows) / len(rows)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {state.step + 1}",
                expected="a finite loss",
                do=f"use a smaller qat.lr than {self._settings.lr:g}, or look at the data of that step; what was "
                "trained until the last checkpoint is kept",
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._team.average(self._trained)
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._trained, LONGEST)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        state.step += 1
        self._sum, self._count = self._sum + value, self._count + 1
        self._progress(state.step, state.total, f"training, loss {value:.3g}, held out {state.curve[-1].held_out:.3g}")

    def _require_change(self) -> None:
        """Refuse a training after which every parameter is what it was: a step that trains something else."""
        if self._state.best_step == 0 and self._state.resumed_at is None:
            now, before = self._model.state_dict(), self._state.best
            names = [name for name, item in self._model.named_parameters() if item.requires_grad]
            if all(torch.equal(now[name].cpu(), before[name]) for name in names):
                raise TrainingError(
                    f"no weight changed in {self._state.total} steps",
                    expected="a loss whose gradient reaches the weights of the model that the step is given",
                    do="compute the loss from model(...), and look whether it is constant",
                )

    def _require_equal(self) -> None:
        """Refuse processes that ended with other weights or ranges than one another: they did not train together."""
        mine = fingerprint(self._state.best) if self._team.size > 1 else 0.0
        if len({row[0] for row in self._team.exchange(Point.END, mine)}) > 1:
            raise StageError(
                "the processes ended with different weights",
                expected="the same ones: all take the mean of their gradients",
                do="report it with the model; one process trains alone",
            )

    # --- looks and checkpoints -----------------------------------------------------------------------------------

    def _first_look(self) -> None:
        state = self._state
        state.best = self._snapshot()
        state.curve.append(TrainedPoint(step=0, loss=None, held_out=self._held_out()))

    def _held_out(self) -> float:
        share, total, weight, failed = self._course.held_out[self._team.rank :: self._team.size], 0.0, 0.0, None
        try:
            with full_gpu():
                batches = [on_device(batch, self._device) for batch in share]
                total, weight = summed_loss(self._course.held_out_loss, self._model, batches)
        except EdgeshipError as error:
            failed = error
        rows = self._team.exchange(Point.LOOK, total, weight, error=failed)
        value = sum(row[0] for row in rows) / sum(row[1] for row in rows)
        if not math.isfinite(value):
            raise TrainingError(
                f"the held-out loss is {value} at step {self._state.step}",
                do="use a smaller qat.lr, or look at the held-out data; what was trained before is kept",
            )
        return value

    def _look(self) -> None:
        """Measure on the held-out batches, keep the best state, and write a checkpoint."""
        state = self._state
        value = self._held_out()
        if value < min(point.held_out for point in state.curve):
            state.best_step, state.best = state.step, self._snapshot()
        loss = self._sum / self._count if self._count else None
        state.curve.append(TrainedPoint(step=state.step, loss=loss, held_out=value))
        self._sum, self._count = 0.0, 0
        size = sum(value.numel() * value.element_size() for value in self._model.state_dict().values())
        if size <= LARGE or state.step == state.total:
            self._save()

    def _snapshot(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}

    def _load(self, tensors: dict[str, torch.Tensor]) -> None:
        self._model.load_state_dict(tensors)

    def _save(self) -> None:
        state = self._state
        self._saved = time.monotonic()
        if self._team.rank > 0:
            return
        numbers = {
            "processes": self._team.size,
            "total": state.total,
            "best_step": state.best_step,
            "curve": [point.model_dump() for point in state.curve],
            "seconds": state.seconds,
            "sum": [self._sum, self._count],
            "scaler": self._scaler.state_dict() if self._settings.amp else {},
        }
        tensors, optimizer = self._snapshot(), checkpoint.flat_optimizer(self._optimizer)
        checkpoint.save(
            checkpoint.Checkpoint(state.step, tensors, state.best, optimizer, torch.get_rng_state(), numbers),
            self._folder,
        )

    def _resume(self) -> None:
        found = checkpoint.newest(self._folder)
        before = found.numbers["processes"] if found is not None else self._team.size
        failed = None
        if before != self._team.size:
            failed = TrainingError(
                f"this training was begun by {before} process{'es' * (before > 1)}, and {self._team.size} would go on",
                expected="as many: the batches of a step are theirs together",
                do=f"start {before}, or remove {self._folder} to begin anew",
            )
        self._team.exchange(Point.READY, error=failed)
        if found is None:
            return
        self._load(found.tensors)
        checkpoint.restore_optimizer(self._optimizer, found.optimizer)
        self._random = found.random
        numbers: dict[str, Any] = found.numbers
        curve = [TrainedPoint.model_validate(point) for point in numbers["curve"]]
        self._sum, self._count = numbers["sum"]
        self._state = State(
            found.step, numbers["total"], numbers["best_step"], found.best, curve, found.step, numbers["seconds"]
        )
        if numbers["scaler"]:
            self._scaler.load_state_dict(numbers["scaler"])


def learning_rate(settings: Qat, step: int, total: int) -> float:
    """The learning rate of a step: a linear warm-up, then constant, or half a cosine down to a hundredth."""
    warm = max(1, round(total * WARM_UP))
    if step < warm:
        return settings.lr * (step + 1) / warm
    if settings.schedule == "constant":
        return settings.lr
    done = (step - warm) / max(1, total - warm)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


def _optimizer(settings: Qat, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer; learned ranges have a rate of their own and no weight decay."""
    named = [(name, item) for name, item in model.named_parameters() if item.requires_grad]
    ranges = [item for name, item in named if name.startswith(QUANTIZERS)]
    weights = [item for name, item in named if not name.startswith(QUANTIZERS)]
    groups: list[dict[str, Any]] = [
        {"params": weights, "factor": 1.0},
        {"params": ranges, "factor": RANGE_FACTOR, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.Adam(groups, lr=settings.lr)


def seed(number: int) -> None:
    """Set the seed of every common source of random numbers."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


@contextmanager
def full_gpu() -> Iterator[None]:
    """Say in our words that a GPU is full. Raises DeviceError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        words = str(error).splitlines()[0]
        raise DeviceError(f"the GPU is full: {words}", do="use a smaller qat.batch, or qat.amp = true") from error


def _autocast(settings: Qat) -> Any:
    return torch.autocast("cuda", torch.float16) if settings.amp else nullcontext()
