"""``init``: what a model and its pictures tell, and a config that passes ``check``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tomllib

import several_inputs
from edgeship import pipeline
from edgeship.config_file import load
from edgeship.errors import UserInputError
from edgeship.pipeline.checks import problems
from edgeship.pipeline.model_guess import recognise
from edgeship.pipeline.starter import Asked, start
from tiny_project import NAMES, project, save

TORCH = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 30 * 30, 5))
"""


def started(folder: Path, **asked: object) -> Path:
    """Write the config. Returns its file."""
    made = start(Asked(root=folder, **asked))  # type: ignore[arg-type]
    path = folder / "edgeship.toml"
    path.write_text(made.text)
    return path


def test_a_config_of_an_onnx_file_and_pictures_passes_check(tmp_path: Path) -> None:
    project(tmp_path)
    asked = {"source": str(tmp_path / "model.onnx"), "images": tmp_path / "val", "calibration": tmp_path / "calib"}
    config = load(started(tmp_path, **asked))
    assert config.evaluation.classes == NAMES  # the model's order, not that of the folders
    assert config.candidates.precisions == ("fp32", "int8")
    found = pipeline.check(config, tmp_path / "out")
    assert found.warnings == ()
    (tie,) = (line for line in start(Asked(root=tmp_path, **asked)).open if line.startswith("preprocess: "))
    assert "common ways do equally well on these images, and the first was written: " in tie  # one colour is enough
    assert found.looked.metrics["top1"] > 0.9


def test_every_default_is_visible_and_may_be_uncommented(tmp_path: Path) -> None:
    project(tmp_path)
    path = started(tmp_path, source=str(tmp_path / "model.onnx"), images=tmp_path / "val")
    lines = path.read_text().splitlines()
    settings = [line.removeprefix("# ") for line in lines if line.startswith("# ") and " = " in line]
    assert len(settings) > 40
    wanted = {"host", "critical", "images", "classes"}
    for setting in settings:
        if setting.partition(" = ")[0] not in wanted:
            assert f"# {setting}" in lines
            path.write_text("\n".join(line.replace(f"# {setting}", setting) for line in lines))
            load(path)
    tomllib.loads("\n".join(lines))


def test_a_module_needs_no_declared_inputs(tmp_path: Path) -> None:
    (tmp_path / "starter_net.py").write_text(TORCH)
    made = start(Asked(source="starter_net:build", root=tmp_path))
    assert 'shape = ["batch", 3, 32, 32]' in made.text  # the size that its last layer takes
    assert any(line.startswith("model.inputs:") for line in made.open)
    assert any("labelled images" in line for line in made.open)
    (tmp_path / "edgeship.toml").write_text(made.text)
    assert problems(load(tmp_path / "edgeship.toml")) == []


def test_channels_that_a_file_leaves_open_are_those_of_its_first_convolution(tmp_path: Path) -> None:
    project(tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    onnx.save(model, tmp_path / "model.onnx")
    made = start(Asked(root=tmp_path, source=str(tmp_path / "model.onnx"), images=tmp_path / "val"))
    assert any("'batch', 3, " in line for line in made.found), made.found


def test_a_fixed_batch_is_the_profile(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", batch=4)
    config = load(started(tmp_path, source=str(tmp_path / "model.onnx")))
    assert (config.target.batch.min, config.target.batch.max) == (4, 4)
    assert problems(config) == []


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt-rtx"])
def test_a_config_to_fill_in_is_valid(tmp_path: Path, task: str, engine: str) -> None:
    config = load(started(tmp_path, source=None, task=task, engine=engine))
    assert config.evaluation.task == task
    if task == "detection":  # YOLOX takes pixels as they are, in BGR
        assert config.preprocess is not None
        assert (config.preprocess.color, config.preprocess.mean, config.preprocess.std) == ("bgr", (0.0,), (1.0,))


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"did you mean 'detection'\?"):
        start(Asked(source=None, root=tmp_path, task="detecton"))
    with pytest.raises(UserInputError, match=r"did you mean 'tensorrt'\?"):
        start(Asked(source=None, root=tmp_path, engine="tensort"))


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([(2, 1000)], ("classification", None, 1000)),
        ([(2, 10, 1, 1)], ("classification", None, 10)),
        ([(2, 21, 64, 64)], ("segmentation", "logits", 21)),
        ([(2, 1, 64, 64)], ("segmentation", "classmap", None)),
        ([(2, 8400, 85)], ("detection", "yolox", 80)),
        ([(2, 84, 8400)], ("detection", "ultralytics", 80)),
        ([(2, 100, 91), (2, 100, 4)], ("detection", "detr", None)),
        ([(2, 300, 6)], ("detection", "nms", None)),
        ([(2, 3, 5, 7, 9)], (None, None, None)),
    ],
)
def test_tasks_by_the_shapes_of_outputs(shapes, told) -> None:
    outputs = {f"o{number}": np.zeros(shape, np.float32) for number, shape in enumerate(shapes)}
    found = recognise(outputs, (640, 640))
    assert found[:2] == told[:2]
    assert found[2] == told[2] or told[2] is None


def test_every_input_beside_the_image_gets_a_table(tmp_path: Path) -> None:
    several_inputs.save(tmp_path / "several.onnx")
    made = start(Asked(str(tmp_path / "several.onnx"), tmp_path))
    (tmp_path / "edgeship.toml").write_text(made.text)
    steps = load(tmp_path / "edgeship.toml").preprocess
    assert steps is not None
    assert steps.input == "front"
    assert {name: item.origin for name, item in steps.inputs.items()} == {
        "left": "images", "size": "image_size", "matrix": "arrays", "prior": "arrays", "pose": "arrays",
    }  # fmt: skip
    assert "inputs: say where the values of left, size, matrix, prior, pose come from" in made.open
