"""Memory from step to step, sequences in order, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgeship import engines
from edgeship.config import Evaluation, Memory, Preprocess
from edgeship.config_file import load
from edgeship.data.frames import FrameChoice, frames
from edgeship.data.memory import Memories, in_sequences, in_time, require_pairs
from edgeship.engines import OpenOptions
from edgeship.engines.onnx_file import read_inputs
from edgeship.errors import DataError, OutputError
from edgeship.pipeline.checks import problems
from edgeship.results import TensorInfo
from edgeship.trial.evaluate import evaluate, load_records
from recurrent import KEEP, project, save

STATE = Preprocess(state={"memory": Memory(origin="mem_in", result="mem_out", init=0.5)})
MEM = TensorInfo(name="mem_in", shape=("batch", 2), dtype="float32")


def test_a_step_feeds_what_the_last_one_gave() -> None:
    memories = Memories([MEM], STATE)
    assert memories.feeds()["mem_in"].tolist() == [[0.5, 0.5]]
    left = memories.take({"y": np.zeros(1), "mem_out": np.array([[1, 2]], np.float32)})
    assert list(left) == ["y"]
    assert memories.feeds()["mem_in"].tolist() == [[1.0, 2.0]]
    memories.reset()
    assert memories.feeds()["mem_in"].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"mem_out": np.zeros((1, 3), np.float32)}, "is float32 [1, 3], the input 'mem_in' takes float32 [1, 2]"),
        ({"mem_out": np.zeros((1, 2), np.float64)}, "is float64 [1, 2]"),
        ({"mem_ot": np.zeros((1, 2), np.float32)}, "the model has no output 'mem_out' (did you mean 'mem_ot'?)"),
    ],
)
def test_a_memory_that_changes_is_refused(outputs: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(OutputError) as refused:
        Memories([MEM], STATE).take(outputs)
    assert words in str(refused.value)


def test_sequences_are_whole_and_in_the_order_of_their_names() -> None:
    names = ["b/2", "a/1", "b/1", "c/1", "a/2", "c/2"]
    groups = [name[0] for name in names]
    assert [names[place] for place in in_sequences(names, groups)] == ["a/1", "a/2", "b/1", "b/2", "c/1", "c/2"]
    assert [names[place] for place in in_sequences(names, groups, 2)] == ["b/1", "b/2"]
    assert [names[place] for place in in_sequences(names, groups, 3)] == ["a/1", "a/2", "c/1"]
    assert len(in_sequences(names, groups, 5)) == 5


@pytest.mark.parametrize(
    "names",
    [
        ["a/1.png", "a/2.png", "a/10.png", "b/0.png"],
        ["f.npz[8]", "f.npz[9]", "f.npz[10]", "f.npz[100]"],
        ["cam_1699.25.jpg", "cam_1699.5.jpg", "cam_1700.jpg", "cam_17000.125.jpg"],
        ["07.png", "7.png", "8.png", "x.png"],
    ],
)
def test_numbers_in_the_names_of_frames_count_as_numbers(names: list[str]) -> None:
    mixed = names[::-1]
    assert sorted(mixed, key=in_time) == names
    assert [mixed[place] for place in in_sequences(mixed, [""] * 4)] == names


def test_a_point_between_two_counters_begins_no_fraction() -> None:
    """As ffmpeg numbers frames behind a name that ends in a number; fractions beside them stay fractions."""
    names = [f"v1.10/clip2.{number}.png" for number in range(8, 12)]
    assert [names[::-1][place] for place in in_sequences(names[::-1], ["a"] * 4)] == names
    timed = ["v1.10/12.25.png", "v1.10/12.5.png", "v1.10/13.0.png"]
    assert in_sequences([*names, *timed], ["a"] * 4 + ["b"] * 3) == list(range(7))


def test_calibration_frames_carry_what_the_model_remembers(tmp_path: Path) -> None:
    config = load(project(tmp_path, sequences=2, frames=4))
    inputs = read_inputs(tmp_path / "model.onnx")[0]
    opened = partial(engines.get("onnxruntime").open, tmp_path / "model.onnx", OpenOptions(device="cpu"))
    chosen = frames(tmp_path / "calib", config.preprocess, inputs, FrameChoice(6, batch=1, opened=opened))
    rows = list(chosen)
    assert [ids[0] for ids, _ in rows] == [f"drive0/{n:03}.png" for n in range(4)] + [
        f"drive1/00{n}.png" for n in (0, 1)
    ]
    remembered = np.full(3, 0.25)
    for ids, feeds in rows:
        remembered = np.full(3, 0.25) if ids[0].endswith("000.png") else remembered
        assert np.allclose(feeds["mem_in"], remembered[None], atol=1e-5)
        remembered = feeds["images"].mean(axis=(2, 3))[0] + KEEP * remembered
    with pytest.raises(DataError, match="memory comes from running the model over the frames before"):
        next(iter(frames(tmp_path / "calib", config.preprocess, inputs, FrameChoice(6))))


def test_sequences_are_evaluated_step_by_step(tmp_path: Path) -> None:
    """The labels are what the model answers with its memory: a reset in the wrong place would be wrong."""
    config = load(project(tmp_path, sequences=3, frames=6))
    assert not problems(config)
    with engines.get("onnxruntime").open(tmp_path / "model.onnx", OpenOptions(device="cpu")) as runner:
        assert config.preprocess is not None
        found = evaluate(runner, config.evaluation, config.preprocess, folder=tmp_path)
        assert found.metrics["top1"] == 1.0
        records = load_records(tmp_path / "records.npz")
        assert records["ids"].tolist() == sorted(records["ids"].tolist())
        assert records["group"].tolist() == [f"drive{number}" for number in range(3) for _ in range(6)]
        alone = config.evaluation.model_copy(update={"group": None, "limit": 7})
        found = evaluate(runner, alone, config.preprocess, folder=tmp_path)
        assert found.images == 7
        assert set(load_records(tmp_path / "records.npz")["group"]) == {"all"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('in = "mem_in"', 'in = "mem"'), "state: the model has no input 'mem' (did you mean 'mem_in'?)"),
        (('out = "mem_out"', 'out = "memory"'), "state.memory: the model has no output 'memory'"),
        (("[candidates]", "[target]\nbatch = { max = 4 }\n[candidates]"), "max is 4"),
        (
            ("[calibration]", "[inputs.mem_in]\nvalue = 0\n[calibration]"),
            "state.memory: the input 'mem_in' is fed by [inputs.mem_in] already",
        ),
        (
            ("[calibration]", 'again = { in = "mem_in", out = "mem_out" }\n[calibration]'),
            "state.again: the input 'mem_in' is fed by state.memory already",
        ),
    ],
)
def test_a_wrong_state_is_refused_before_any_stage(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    config = project(tmp_path, sequences=1, frames=2)
    config.write_text(config.read_text().replace(*change))
    assert any(words in str(problem) for problem in problems(load(config)))


def test_a_declared_memory_of_another_shape_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", memory=(3, 1))
    with pytest.raises(DataError, match=r"state\.memory: the input 'mem_in' is float32 \[1, 3\], the output"):
        require_pairs(*read_inputs(tmp_path / "model.onnx"), STATE)


def test_memory_needs_images_whose_names_are_known(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx")
    settings = Evaluation(images=Path("recurrent:rows"), classes=("red", "green", "blue"))
    steps = STATE.model_copy(update={"fit": "stretch"})
    opened = engines.get("onnxruntime").open(tmp_path / "model.onnx", OpenOptions(device="cpu"))
    with opened as runner, pytest.raises(DataError, match="needs images whose names are known"):
        evaluate(runner, settings, steps, folder=tmp_path)
