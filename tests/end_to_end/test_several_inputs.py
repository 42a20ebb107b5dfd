"""A classifier of two cameras, sizes, a matrix, arrays and columns: through ship, bundle, runtime and over SSH."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import Edgeship

import edgeship
from edgeship import pipeline
from edgeship.config_file import load
from edgeship.data.npz import open_npz
from edgeship.decide.finished_run import FinishedRun
from edgeship.errors import DataError
from edgeship.pipeline.checks import problems
from edgeship.results import trial_folder
from edgeship.targets.sending import plan_of
from over_ssh import evaluated_on_both
from several_inputs import project
from sshd_support import Device

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("several")
    return pipeline.ship(load(project(folder)), folder / "run")


def test_every_image_meets_its_own_values(shipped: FinishedRun) -> None:
    """The labels are what the model answers: one image with another's value would be wrong."""
    assert shipped.result.verdict == "SHIP"
    assert shipped.result.reference.metrics["top1"] == 1.0
    assert {item.candidate: item.metrics["top1"] for item in shipped.result.trials}["int8"] >= 23 / 24
    assert [item.latency_ms.batch for item in shipped.result.trials if item.latency_ms is not None] == [2, 2]


def test_the_known_answer_holds_an_array_for_every_input(shipped: FinishedRun) -> None:
    known = open_npz(shipped.folder / "bundle" / "known.npz")
    shapes = {name[3:]: array.shape for name, array in known.items() if name.startswith("in:")}
    assert shapes == {
        "front": (1, 3, 16, 16), "left": (1, 3, 16, 16), "size": (1, 2), "matrix": (3, 3), "prior": (1, 3),
        "pose": (1, 3),
    }  # fmt: skip
    assert known["in:size"].tolist() == [[24, 20]]


def test_the_vehicle_gives_what_it_has_and_the_rest_is_known(shipped: FinishedRun) -> None:
    val = shipped.folder.parent / "val"
    labels = dict(line.split(",") for line in (val / "labels.csv").read_text().splitlines()[1:])
    poses = {row[0]: [float(value) for value in row[1:]] for row in _rows(val / "poses.csv")}
    priors = {row[0]: np.load(val / row[1]) for row in _rows(val / "prior.csv")}
    with edgeship.load(shipped.folder / "bundle") as model:
        for name in list(labels)[:6]:
            beside = {"left": val / "left" / name, "prior": priors[name], "pose": poses[name]}
            assert model(val / "front" / name, **beside).top(1)[0][0] == labels[name]
            assert model(front=np.asarray(Image.open(val / "front" / name)), **beside).top(1)[0][0] == labels[name]
        both = model.predict_batch(
            [val / "front" / name for name in list(labels)[:2]],
            [{"left": val / "left" / name, "prior": priors[name], "pose": poses[name]} for name in list(labels)[:2]],
        )
        assert [frame.prediction.top(1)[0][0] for frame in both] == list(labels.values())[:2]
        with pytest.raises(DataError, match=r"nothing was given for the input 'prior'"):
            model(val / "front" / "000.png", left=val / "left" / "000.png", pose=[0, 0, 0])
        with pytest.raises(DataError, match=r"no input 'pos' \(did you mean 'pose'\?\)"):
            model(val / "front" / "000.png", pos=[0, 0, 0])
        with pytest.raises(DataError, match=r"the value of 'pose' has shape \[2\]"):
            model(val / "front" / "000.png", **{**beside, "pose": [0, 0]})


def _rows(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def test_a_device_gets_every_file_and_no_path_of_the_workstation(shipped: FinishedRun) -> None:
    folder = shipped.folder / next(item.folder for item in shipped.result.trials if item.candidate == "int8")
    plan = plan_of(folder)
    files = {name.removeprefix("inputs."): sorted(plan.trees[label]) for name, (label, _) in plan.places.items()}
    assert files["pose"] == ["poses.csv"]
    assert len(files["left"]) == 24
    assert "val/arrays/p1.npy" in files["prior"]
    assert plan.places["inputs.prior"][1] == "val/prior.csv"
    manifest = (shipped.folder / "bundle" / "manifest.json").read_text()
    assert str(shipped.folder.parent) not in manifest
    assert trial_folder.read_spec(folder).preprocess is not None


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("val/left/003.png", "inputs.left: {root}/val/left holds nothing for 1 of 24 images, for instance 003.png"),
        ("calib/prior/004.npy", "inputs.prior: {root}/calib/prior holds nothing for 1 of 12 images"),
        ("calib/front/005.png", "{root}/calib/left holds 1 of 12 frames that {root}/calib/front lacks"),
    ],
)
def test_what_is_missing_is_said_before_any_stage(tmp_path: Path, broken: str, words: str) -> None:
    config = project(tmp_path)
    (tmp_path / broken).unlink()
    (problem,) = problems(load(config))
    assert words.format(root=tmp_path) in str(problem)


def test_a_value_without_a_batch_axis_allows_a_batch_of_one(tmp_path: Path) -> None:
    config = project(tmp_path, rows=1)
    (problem,) = problems(load(config))
    assert "input 'pose' [1, 3] differs from image to image and has no batch axis" in str(problem)


def test_the_step_commands_take_the_declaration_from_the_config(
    shipped: FinishedRun, edgeship: Edgeship, tmp_path: Path
) -> None:
    place = shipped.folder.parent
    model, config = place / "model.onnx", ("--config", place / "edgeship.toml")
    cache, made = tmp_path / "c.cache", tmp_path / "int8.onnx"
    done = edgeship("calibrate", model, *config, "--method", "minmax", "-o", cache)
    assert done.code == 0, done.err
    assert "tensors from 12 frames" in done.out
    done = edgeship("quantize", model, *config, "--cache", cache, "-o", made)
    assert done.code == 0, done.err
    done = edgeship("evaluate", made, *config, "--json")
    assert done.code == 0, done.err
    assert done.json["metrics"]["top1"] > 0.8
    assert str(place) not in cache.with_name("c.cache.json").read_text()
    done = edgeship("parity", model, "--onnx", model, *config)
    assert done.code == 0, done.err
    assert "4 real frames" in done.out
    alone = edgeship("calibrate", model, "--images", place / "calib" / "front", "-o", cache, "-p", "fit=stretch")
    assert alone.code == 2
    assert "declare the others" in alone.err


def test_a_trial_over_ssh_gives_the_same_figures(shipped: FinishedRun, host: Device, tmp_path: Path) -> None:
    here, there = evaluated_on_both(shipped, host, tmp_path)
    assert there.metrics == here.metrics == {**here.metrics, "top1": 1.0}
