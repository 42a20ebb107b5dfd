"""Labels of several tasks for the same images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeship.config_file import load
from edgeship.data.datasets import open_dataset
from edgeship.errors import DataError
from edgeship.pipeline.checks import problems
from two_heads import project


def test_every_image_has_the_labels_of_every_task(tmp_path: Path) -> None:
    config = load(project(tmp_path, images=3))
    dataset = open_dataset(config.evaluation)
    assert dataset.classes == ("boxes.cone", "lanes.road", "lanes.lane")
    assert [item.id for item in dataset.items] == ["00.png", "01.png", "02.png"]
    assert len(open_dataset(config.evaluation.model_copy(update={"limit": 2})).items) == 2


def test_labels_for_a_part_of_the_images_are_refused_by_name(tmp_path: Path) -> None:
    config = load(project(tmp_path, images=4))
    told = json.loads((tmp_path / "boxes.json").read_text())
    told["images"], told["annotations"] = told["images"][:3], told["annotations"][:3]
    (tmp_path / "boxes.json").write_text(json.dumps(told))
    with pytest.raises(
        DataError, match=r"evaluation\.boxes has no labels for 1 of the 4 images .* for instance 03\.png"
    ):
        open_dataset(config.evaluation)


def test_labels_that_cannot_be_used_are_told_with_their_task(tmp_path: Path) -> None:
    config = load(project(tmp_path, images=2))
    (tmp_path / "masks" / "01.png").unlink()
    with pytest.raises(
        DataError, match=r"\[evaluation\.lanes\]: 1 of 2 images have no mask in .*, for instance 01\.png"
    ):
        open_dataset(config.evaluation)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("boxes.map50 = 0.5", "map50 = 0.5", "gate.max_drop.map50: there are several tasks, and it names none of them"),
        ("boxes.map50 = 0.5", "boxes.mapp = 0.5", "boxes: gate.max_drop.mapp: no such metric; did you mean 'map'?"),
        ("lanes.lane = 0.5", "lanes.line = 0.5", "lanes: gate.critical.line: no such class; did you mean 'lane'?"),
        (
            'output = "lanes"',
            'output = "lane"',
            "evaluation.lanes.output: the model has no output 'lane' (did you mean",
        ),
        (
            'outputs = ["boxes"]',
            'outputs = ["boxs"]',
            "evaluation.boxes.outputs: the model has no output 'boxs' (did you",
        ),
        ('task = "detection"', 'task = "detections"', "evaluation.task is 'detections' (did you mean 'detection'?)"),
    ],
)
def test_a_rule_about_what_no_task_gives_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    config = project(tmp_path, images=2)
    config.write_text(config.read_text().replace(old, new))
    assert any(words in str(problem) for problem in problems(load(config)))
