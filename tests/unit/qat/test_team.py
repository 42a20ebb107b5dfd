"""Several processes: they learn what one learns, an error in one ends all alike, and a killed one in a sentence."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import fx, nn

from edgeship.config import Qat
from edgeship.data.frames import Frames
from edgeship.data.loader import LoadOptions, cores
from edgeship.errors import EdgeshipError, TrainingError
from edgeship.qat.batches import FrameBatches, LoaderBatches
from edgeship.qat.fake import ActivationQuantizer
from edgeship.qat.launched import Place, place
from edgeship.qat.losses import Distill, UserStep
from edgeship.qat.rounding import Grid
from edgeship.qat.student import Student
from edgeship.qat.team import Team, joined, share_cores
from edgeship.qat.train import Course, State, train
from edgeship.results import TensorInfo

FRAMES, HELD_OUT, STEPS = 40, 10, 8
ALONE = Team()


class Leaves(fx.Tracer):
    """Every module stays one call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def values(count: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def frame_batches(team: Team) -> FrameBatches:
    """Eight frames a step, shared."""
    info, rows = TensorInfo(name="x", shape=("batch", 4), dtype="float32"), values(FRAMES, 0)
    options = LoadOptions(8 // team.size)
    frames = Frames(tuple(map(str, range(FRAMES))), (), (info,), None, options, feeds={"x": rows})
    return FrameBatches(frames, ("x",), 0, team.rank, team.size)


def learned(
    team: Team, folder: Path, step: Callable[..., Any] | None = None, data: Callable[[], Any] | None = None
) -> tuple[State, dict[str, torch.Tensor]]:
    """A small network with a learned range, trained by ``team``."""
    torch.manual_seed(0)
    quantizer = ActivationQuantizer(Grid("x", 0.02, 0, -128, 127))
    root = nn.Sequential(nn.Linear(4, 8), quantizer, nn.Linear(8, 3), nn.Linear(3, 3).requires_grad_(False))
    student = Student(fx.GraphModule(root, Leaves().trace(root)), {"x": quantizer})
    torch.manual_seed(1)
    held_out = [(part,) for part in torch.from_numpy(values(HELD_OUT, 2)).split(3)]
    teacher = Distill(fx.symbolic_trace(nn.Linear(4, 3)), ("x",), ()).measured(held_out, "cpu")
    loss = teacher if step is None else UserStep("own:step", step)
    batches = frame_batches(team) if data is None else LoaderBatches("own:data", data, team.size)
    settings = Qat(lr=1e-2, optimizer="sgd", steps=STEPS)
    state = train(student, Course(settings, batches, loss, held_out, teacher, [("x", ("batch", 4))], team), folder)
    return state, student.module.state_dict()


def failing(team: Team, kind: str) -> dict[str, Callable[..., Any]]:
    """A step or a loader that goes wrong in the second process, or in the first."""
    second, calls = team.rank == 1, count(1)

    def step(model: nn.Module, batch: Any) -> Any:
        found = model(batch[0])
        if kind == "killed" and second and next(calls) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "shape" and second:
            return found
        return found.square().sum() * (float("nan") if kind == "nan" and second else 1.0)

    def data() -> Any:
        rows = torch.from_numpy(values(FRAMES, 0))
        yield from ((part,) for part in (rows + team.rank if kind == "other" else rows).split(4))
        if kind == "raises" and not second:
            raise TrainingError("no more frames")

    given: dict[str, Callable[..., Any]] = {"step": step}
    return given | ({"data": data} if kind in ("other", "raises") else {})


def one_of_two(folder: Path) -> None:
    """What each process does, and writes down."""
    where = place()
    assert where is not None
    said = {}
    with joined(where, "cpu") as team:
        if not (folder / "killed").exists():
            state, tensors = learned(team, made(folder / f"whole{team.rank}"))
            save_file(tensors, folder / f"{team.rank}.safetensors")
            (folder / f"{team.rank}.curve").write_text(json.dumps([point.held_out for point in state.curve]))
            for kind in ("shape", "nan", "other", "raises"):
                try:
                    learned(team, made(folder / kind), **failing(team, kind))
                except EdgeshipError as error:
                    said[kind] = f"{type(error).__name__}: {error.found}"
            kinds = ["killed"]
        else:
            kinds = ["resumed"]
        for kind in kinds:
            try:
                state, tensors = learned(team, made(folder / "killed"), **failing(team, kind))
                save_file(tensors, folder / f"{team.rank}.{kind}")
                said[kind] = f"from {state.resumed_at}"
            except EdgeshipError as error:
                said[kind] = f"{type(error).__name__}: {error.found}"
    (folder / f"{team.rank}.json").write_text(json.dumps(said))


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def start_two(folder: Path) -> list[int]:
    """Two processes with what torchrun tells its own; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = "import sys, pathlib, test_team; test_team.one_of_two(pathlib.Path(sys.argv[1]))"
    running = []
    for rank in ("0", "1"):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | told | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
        running.append(subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment))
    return [process.wait(timeout=300) for process in running]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: a whole training, four that go wrong, and one whose second process was killed."""
    folder = tmp_path_factory.mktemp("two")
    assert start_two(folder) == [0, -signal.SIGKILL]
    return folder


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_on_the_same_frames(two: Path, tmp_path: Path) -> None:
    state, alone = learned(ALONE, tmp_path)
    first, second = (load_file(two / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)
    curves = [json.loads((two / f"{rank}.curve").read_text()) for rank in (0, 1)]
    assert curves[0] == curves[1] == pytest.approx([point.held_out for point in state.curve], rel=1e-5)
    assert curves[0][-1] < 0.9 * curves[0][0]


@pytest.mark.slow
def test_an_error_in_one_process_ends_both_with_the_same_sentence(two: Path) -> None:
    said = json.loads((two / "0.json").read_text())
    assert said["shape"] == "TrainingError: process 1 of 2: own:step returned a tensor of shape [4, 3]"
    assert said["nan"] == "TrainingError: the loss is nan at step 1"
    assert said["other"] == "TrainingError: own:data gives each process other batches"
    assert said["raises"] == "TrainingError: no more frames"


@pytest.mark.slow
def test_a_killed_process_is_told_and_both_go_on_from_the_checkpoint(two: Path, tmp_path: Path) -> None:
    said = json.loads((two / "0.json").read_text())["killed"]
    assert said == "ProcessLost: another of the 2 processes of the training ended"
    with pytest.raises(TrainingError, match="begun by 2 processes, and 1 would go on"):
        learned(ALONE, two / "killed")
    assert start_two(two) == [0, 0]
    assert [json.loads((two / f"{rank}.json").read_text()) for rank in (0, 1)] == [{"resumed": "from 5"}] * 2
    _, whole = learned(ALONE, tmp_path, **failing(ALONE, ""))
    torch.testing.assert_close(load_file(two / "0.resumed"), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("where", "device", "words"),
    [
        (Place(0, 4, 2), "cpu", "2 of the 4 processes are on this machine"),
        (Place(0, 99, 99), "cuda:0", "99 processes from cuda:0 on need as many GPUs"),
    ],
)
def test_processes_that_cannot_train_together_are_refused(where: Place, device: str, words: str) -> None:
    with pytest.raises(EdgeshipError, match=words), joined(where, device):
        pass


def test_each_process_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        torch.set_num_threads(3)
        share_cores(1)
        assert torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's own
        share_cores(1)
        assert torch.get_num_threads() == cores()
        share_cores(10_000)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_no_frame_is_drawn_twice_in_an_epoch() -> None:
    drawn = [list(frame_batches(Team(rank, 3)).epoch(1)) for rank in range(3)]
    assert [len(part) for part in drawn] == [len(frame_batches(Team(0, 3)))] * 3
    rows = torch.cat([tensor for part in drawn for (tensor,) in part])
    assert len(rows) == 40 // 6 * 6 == len(torch.unique(rows, dim=0))
    assert [Team(rank, 2).device("cuda:1") for rank in (0, 1)] == ["cuda:1", "cuda:2"]
