"""The training loop: the best state is kept, a killed training goes on as if nothing was, bad steps are named."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from edgeship.config import Qat
from edgeship.errors import TrainingError
from edgeship.qat.batches import LoaderBatches
from edgeship.qat.losses import Distill, UserStep
from edgeship.qat.student import Student
from edgeship.qat.train import Course, State, learning_rate, train

SPECS = [("x", ("batch", 4))]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 4, generator=generator) for _ in range(5)]


def shuffled() -> Iterator[torch.Tensor]:
    """The batches in an order of torch's own random numbers, drawn as a loader does."""
    made = batches()
    for row in torch.randperm(len(made)).tolist():
        yield made[row] + 0.01 * torch.randn(6, 4)


def course(settings: Qat, step: Callable[..., Any] | None = None, data: Callable[[], Any] = batches) -> Course:
    teacher = Distill(fx.symbolic_trace(nn.Linear(4, 3)), ("x",), ()).measured(batches()[:2], "cpu")
    loss = teacher if step is None else UserStep("own:step", step)
    return Course(settings, LoaderBatches("own:data", data), loss, batches()[:2], teacher, SPECS)


def run(folder: Path, step: Callable[..., Any] | None = None, **settings: Any) -> tuple[State, Student]:
    data = settings.pop("data", batches)
    student = Student(fx.symbolic_trace(network()))
    return train(student, course(Qat(**{"lr": 1e-2, **settings}), step, data), folder), student


def test_training_comes_nearer_to_the_teacher_and_keeps_the_best_state(tmp_path: Path) -> None:
    state, _ = run(tmp_path, steps=40)
    held_out = [point.held_out for point in state.curve]
    assert state.total == 40
    assert min(held_out) < 0.5 * held_out[0]
    assert held_out[[point.step for point in state.curve].index(state.best_step)] == min(held_out)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_only_gets_worse_keeps_what_was_there(tmp_path: Path) -> None:
    state, student = run(tmp_path, steps=10, lr=50.0, optimizer="sgd")
    assert state.best_step == 0
    before = network().state_dict()
    after = student.user_state()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_epochs_count_the_batches_of_the_loader(tmp_path: Path) -> None:
    state, _ = run(tmp_path, epochs=2)
    assert state.total == 10


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train import run, shuffled

def data():
    for number, batch in enumerate(shuffled()):
        if number == 3 and list(Path(sys.argv[2]).glob("checkpoint-*8")):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

run(Path(sys.argv[2]), steps=20, data=data)
"""


def test_a_killed_training_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "killed")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    again, continued = run(tmp_path / "killed", steps=20, data=shuffled)
    whole, uninterrupted = run(tmp_path / "whole", steps=20, data=shuffled)
    assert (whole.resumed_at, again.resumed_at) == (None, 8)
    assert again.curve == whole.curve
    torch.testing.assert_close(continued.module.state_dict(), uninterrupted.module.state_dict(), rtol=0, atol=0)


def nothing() -> Iterator[torch.Tensor]:
    yield from ()


@pytest.mark.parametrize(
    ("step", "data", "words"),
    [
        (lambda model, batch: model(batch), batches, r"returned a tensor of shape \[6, 3\]"),
        (lambda model, batch: 3.0, batches, "returned float"),
        (lambda model, batch: model(batch).sum() * float("nan"), batches, "the loss is nan at step 1"),
        (lambda model, batch: model(batch).detach().sum(), batches, "does not depend on the model's weights"),
        (lambda model, batch: (0.0 * model(batch)).sum(), batches, "no weight changed in 3 steps"),
        (None, nothing, "gives no batch"),
        (None, lambda: 7, "returned int"),
        (None, lambda: [torch.zeros(6, 5)], r"a batch holds \[6, 5\] for 'x'"),
        (None, lambda: [("a", 1)], "a batch is a tuple of 2, in which x cannot be found"),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path: Path, step: Any, data: Any, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        run(tmp_path, step, steps=3, data=data)


def test_an_epoch_without_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="gives no batch"):
        run(tmp_path, epochs=2, data=nothing)


def test_a_loss_that_becomes_nan_keeps_what_was_trained_before(tmp_path: Path) -> None:
    calls = count(1)

    def step(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().sum() * (float("nan") if next(calls) == 8 else 1.0)

    with pytest.raises(TrainingError, match="the loss is nan at step 8"):
        run(tmp_path, step, steps=20)
    state, _ = run(tmp_path, step, steps=20)
    assert state.resumed_at == 7 and state.total == 20
    assert [point.step for point in state.curve] == list(range(21))


def test_a_large_state_is_not_written_at_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeship.qat.train.LARGE", 0)
    calls = count(1)

    def step(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().sum() * (float("nan") if next(calls) == 8 else 1.0)

    with pytest.raises(TrainingError, match="the loss is nan at step 8"):
        run(tmp_path, step, steps=20)
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_model_is_refused(tmp_path: Path) -> None:
    student = Student(fx.symbolic_trace(network().requires_grad_(False)))
    with pytest.raises(TrainingError, match="no parameter that requires a gradient"):
        train(student, course(Qat(steps=2)), tmp_path)


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    settings = Qat(lr=1.0)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(1.0, abs=1e-9)
    assert rates[99] == pytest.approx(0.01, abs=0.01) and sorted(rates[5:], reverse=True) == rates[5:]
    assert learning_rate(Qat(lr=1.0, schedule="constant"), 99, 100) == 1.0
