"""A classifier of two cameras, sizes, a matrix, arrays and columns: through ship, bundle, runtime and over SSH."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeship
from chaos_support import remote_target
from edgeship import pipeline, targets
from edgeship.config_file import load
from edgeship.data.npz import open_npz
from edgeship.decide.finished_run import FinishedRun
from edgeship.errors import DataError
from edgeship.pipeline.checks import problems
from edgeship.results import trial_folder
from edgeship.targets.sending import plan_of
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


def test_a_trial_over_ssh_gives_the_same_figures(shipped: FinishedRun, host: Device, tmp_path: Path) -> None:
    local = shipped.folder / next(item.folder for item in shipped.result.trials if item.candidate == "fp32")
    spec = trial_folder.read_spec(local)
    for name in (spec.model.path, spec.frames.path if spec.frames else ""):
        shutil.copyfile(local / name, tmp_path / name)
    there = remote_target(host).model_copy(update={"batch": spec.target.batch, "shapes": spec.target.shapes})
    trial_folder.write_spec(spec.model_copy(update={"target": there}), tmp_path)
    trial, ours = targets.run(there, tmp_path), trial_folder.read_trial(local)
    assert trial.failure is None, trial.failure
    assert trial.evaluation is not None
    assert ours.evaluation is not None
    assert trial.evaluation.metrics == ours.evaluation.metrics == {**ours.evaluation.metrics, "top1": 1.0}
