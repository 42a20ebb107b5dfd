"""[inputs] and [preprocess.NAME]: where they go, and what is said of wrong ones in the words of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeship.config_file import load
from edgeship.errors import ConfigError

START = '[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n[preprocess]\nfit = "stretch"\nscale = 0.5\n'


def config(folder: Path, text: str) -> Any:
    path = folder / "edgeship.toml"
    path.write_text(START + text)
    return load(path)


def test_each_camera_has_the_common_steps_and_its_own(tmp_path: Path) -> None:
    text = '[preprocess.front]\nscale = 1.0\n[preprocess.left]\ncolor = "bgr"\n[inputs.left]\nfrom = "images"\n'
    steps = config(tmp_path, text + 'evaluation = "val/left"\n').preprocess
    assert (steps.input, steps.scale, steps.color) == ("front", 1.0, "rgb")
    left = steps.inputs["left"]
    assert (left.preprocess.fit, left.preprocess.scale, left.preprocess.color) == ("stretch", 0.5, "bgr")
    assert left.evaluation == tmp_path / "val/left"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[inputs.k]\nfrom = "image"\n', "inputs.k.from: input should be 'image_size'"),
        (
            '[inputs.k]\nfrom = "images"\nevaluaton = "x"\n',
            "inputs.k.evaluaton: unknown key; did you mean 'evaluation'",
        ),
        ("[inputs.k]\norder = 'width-height'\n", "inputs.k.from: missing"),
        ('[inputs.k]\nfrom = "constant"\n', 'inputs.k: from = "constant" needs value'),
        ('[inputs.k]\nfrom = "arrays"\nvalue = 3\n', 'inputs.k: from = "arrays" takes no value'),
        ('[inputs.k]\nfrom = "columns"\n', 'inputs.k: from = "columns" needs columns'),
        ('[inputs.k]\nvalue = 3\nevaluation = "x"\n', 'inputs.k: from = "constant" takes no evaluation'),
        ("[preprocess.a]\nscale = 1.0\n[preprocess.b]\nscale = 1.0\n", "preprocess.b: nothing says where its images"),
        (
            '[preprocess.left]\nscale = -1.0\n[inputs.left]\nfrom = "images"\n',
            "preprocess.left.scale: input should be greater than 0",
        ),
    ],
)
def test_a_wrong_table_is_named_as_the_file_names_it(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(tmp_path, text)
    assert words in str(refused.value)


def test_inputs_stand_beside_an_image(tmp_path: Path) -> None:
    path = tmp_path / "edgeship.toml"
    path.write_text('[model]\nsource = "m.onnx"\n[inputs.k]\nvalue = 3\n')
    with pytest.raises(ConfigError, match=r"preprocess: missing; \[inputs\] stands beside an image"):
        load(path)


TASKS = '[evaluation]\nimages = "val"\nlimit = 5\n[evaluation.boxes]\ntask = "detection"\nlabels = "b.json"\n'


def test_each_task_has_the_common_settings_and_its_own(tmp_path: Path) -> None:
    text = '[evaluation.lanes]\ntask = "segmentation"\n[gate]\nmax_drop = { boxes.map = 0.1 }\n'
    found = config(tmp_path, TASKS + text)
    assert found.evaluation.task == "boxes=detection+lanes=segmentation"
    boxes = found.evaluation.tasks["boxes"]
    assert (boxes.task, boxes.labels, boxes.images, boxes.limit) == (
        "detection", tmp_path / "b.json", tmp_path / "val", 5,
    )  # fmt: skip
    assert found.gate.max_drop == {"boxes.map": 0.1}
    assert type(found.evaluation).model_validate_json(found.evaluation.model_dump_json()) == found.evaluation


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limit = 3\n", "boxes.limit: all tasks see the same images"),
        ('decodr = "nms"\n', "evaluation.boxes.decodr: unknown key; did you mean 'decoder'"),
    ],
)
def test_a_wrong_task_is_named_as_the_file_names_it(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(tmp_path, TASKS + text)
    assert words in str(refused.value)
