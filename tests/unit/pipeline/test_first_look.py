"""The reference on a few images: what it shows, and what it warns of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeship import pipeline
from edgeship.config import Preprocess
from edgeship.config_file import load
from edgeship.data.loader import Item
from edgeship.data.loader import load as load_image
from edgeship.data.objects import Boxes
from edgeship.pipeline.first_look import draw
from tiny_project import NAMES, picture, project


def look(folder: Path, **model: object) -> pipeline.Checked:
    return pipeline.check(load(folder / "edgeship.toml"), folder / "out")


def test_what_it_shows(tmp_path: Path) -> None:
    project(tmp_path)
    found = look(tmp_path)
    assert found.looked.warnings == ()
    assert found.warnings == ("gate.max_drop.top1 = 0.5 is a wide limit: top1 may lose 50 points of 100",)
    assert found.looked.images == 72
    assert found.looked.examples == dict.fromkeys(NAMES, 24)
    assert found.looked.metrics["top1"] == 1.0
    assert found.looked.frames == 8
    assert next(iter(found.looked.answers.items()))[1].startswith("blue ")
    assert found.picture is not None
    with Image.open(found.picture) as shown:
        assert shown.size == (256, 256)


def relabelled(folder: Path) -> None:
    for name in NAMES:
        (folder / "val" / name).rename(folder / "val" / f"{name}-")
    for name, other in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True):
        (folder / "val" / f"{name}-").rename(folder / "val" / other)


def few(folder: Path) -> None:
    for path in sorted((folder / "val" / "blue").iterdir())[2:]:
        path.unlink()


def none(folder: Path) -> None:
    shutil.rmtree(folder / "val" / "blue")


def copied(folder: Path) -> None:
    for number in range(12):
        shutil.copy(folder / "val" / "red" / "000.png", folder / "val" / "red" / f"copy{number}.png")


def shared(folder: Path) -> None:
    shutil.copy(folder / "val" / "red" / "000.png", folder / "calib" / "from-val.png")


def same(folder: Path) -> None:
    config = folder / "edgeship.toml"
    config.write_text(config.read_text().replace('images = "calib/"', 'images = "val/"'))


def limited(folder: Path) -> None:
    same(folder)
    config = folder / "edgeship.toml"
    config.write_text(config.read_text().replace("[evaluation]", "[evaluation]\nlimit = 60"))


def unit(folder: Path) -> None:
    config = folder / "edgeship.toml"
    config.write_text(
        config.read_text().replace("std = [255.0, 255.0, 255.0]", "mean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]")
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (relabelled, "the reference is right on 0% of 72 images, and always saying the most common class"),
        (few, "blue has 2"),
        (none, "1 of 3 classes have no labelled example: blue"),
        (copied, "84 evaluation files are 72 different pictures (one of them 13 times)"),
        (shared, "1 of 72 evaluation images are also calibration frames"),
        (same, "72 of 72 evaluation images are also calibration frames"),
        (limited, "60 of 60 evaluation images are also calibration frames"),
        (unit, "look like those of pixels from 0 to 1"),
    ],
)
def test_what_it_warns_of(tmp_path: Path, change, words: str) -> None:
    project(tmp_path)
    change(tmp_path)
    assert any(words in warning for warning in look(tmp_path).warnings)


def test_answers_that_depend_on_the_neighbours_are_told(tmp_path: Path) -> None:
    project(tmp_path, leak=True)
    assert any("answers differ between batch 1 and batch 4" in warning for warning in look(tmp_path).warnings)


def test_boxes_and_masks_lie_where_the_network_sees_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0, 1)
    settings = Preprocess(fit="letterbox", std=(255.0,))
    boxes = Boxes(np.array([[4.0, 4.0, 12.0, 12.0]]), np.array([0]), np.array([False]), np.array([64.0]))
    frame = load_image(Item("a", tmp_path / "a.png", boxes), settings, (128, 256))
    shown = np.asarray(draw(frame, settings, ("thing",)))
    assert shown.shape == (128, 256, 3)
    assert tuple(shown[32, 64 + 48]) == (255, 64, 0)  # the box's top edge: y 4 * 8, left edge x 64 + 4 * 8
    mask = np.zeros((16, 16), np.int64)
    mask[:8] = 1
    frame = load_image(Item("a", tmp_path / "a.png", mask), settings, (128, 256))
    shown = np.asarray(draw(frame, settings, ("thing",))).astype(int)
    assert (shown[10, :60] == shown[10, 0]).all()  # outside the picture
    assert (shown[20, 64:192] - shown[110, 64:192]).any()
