"""Texts of the pictures in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeship.data.objects import Boxes
from edgeship.data.regions import region
from edgeship.decode.predictions import Detection, Instances, Poses, Segmentation
from edgeship.pipeline.changes import LARGEST, Pictures, _found, boxes_of, counted, found_objects, pixel_accuracy


@pytest.mark.parametrize(("number", "text"), [(0, "0 boxes"), (1, "1 box"), (2, "2 boxes")])
def test_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "box", "boxes") == text


def test_boxes_carry_their_class_and_score() -> None:
    found = Detection(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([1]), ("person", "cat")
    )
    (box,) = boxes_of(found)
    assert (box.corners, box.label, box.score) == ((1.0, 2.0, 3.0, 4.0), "cat", 0.5)


@pytest.mark.parametrize(("ignored", "share"), [(255, 2 / 4), (2, 2 / 4), (None, 2 / 6)])
def test_pixels_without_a_label_are_no_errors_and_unseen_ones_are(ignored: int | None, share: float) -> None:
    fill = ignored if ignored is not None else 2
    truth = np.array([[0, 1, 1, 1, fill, fill]], np.uint8)
    answer = Segmentation(np.array([[0, 1, -1, 0, 0, 1]], np.int16), ("road", "lane", "rail"))
    assert pixel_accuracy(answer, truth, ignored) == pytest.approx(share)


def test_no_labelled_pixel_is_no_accuracy() -> None:
    answer = Segmentation(np.zeros((2, 2), np.int16), ("road",))
    assert pixel_accuracy(answer, np.full((2, 2), 255), 255) == 0


def test_a_large_photograph_is_kept_small_and_a_small_one_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), dtype=np.uint8)
    kept, size = Pictures(tmp_path).image(pixels)
    assert kept is not None and size == (2000, 1500)
    with Image.open(tmp_path / kept.path) as shown:
        assert shown.size == (LARGEST, LARGEST * 3 // 4) and shown.format == "JPEG"
    gray = pixels[:28, :28, :1]
    kept, size = Pictures(tmp_path).image(gray)
    assert kept is not None and size == (28, 28)
    with Image.open(tmp_path / kept.path) as shown:
        assert np.array_equal(np.asarray(shown)[..., :1], gray)


def test_an_image_that_cannot_be_read_again_is_no_picture(tmp_path: Path) -> None:
    assert Pictures(tmp_path).image(tmp_path / "gone.png") == (None, (0, 0))
    (tmp_path / "text.png").write_text("no image")
    assert Pictures(tmp_path).image(tmp_path / "text.png") == (None, (0, 0))
    assert Pictures(tmp_path).image(np.zeros((4, 4, 7))) == (None, (0, 0))


def test_a_mask_keeps_its_classes_at_the_size_of_the_picture(tmp_path: Path) -> None:
    classes = np.zeros((600, 1200), np.int16)
    classes[:, :600] = 3
    classes[:, 1100:] = -1
    kept = Pictures(tmp_path).mask(classes)
    with Image.open(tmp_path / kept.path) as shown:
        assert shown.size == (LARGEST, LARGEST // 2)
        assert sorted(set(np.asarray(shown).ravel())) == [0, 3]


def test_shapes_of_objects_are_kept_for_the_report(tmp_path: Path) -> None:
    window = np.zeros((20, 30), bool)
    window[4:9, 5:15] = True
    parts = (np.array([[5, 4, 15, 9]], np.float32), np.ones(1, np.float32), np.array([1]), ("person", "cat"))
    masked = Instances(*parts, (region(window),), 20, 30)
    answer = _found(masked, 1, 1, Pictures(tmp_path))
    assert answer.mask is not None
    assert np.array_equal(np.asarray(Image.open(tmp_path / answer.mask.path)) == 2, window)
    posed = Poses(*parts, np.array([[[6, 5, 0.9], [7, 6, 0.1]]], np.float32))
    assert boxes_of(posed)[0].points == ((6.0, 5.0),)


def test_objects_are_found_by_their_shapes() -> None:
    window = np.ones((20, 30), bool)
    label = np.array([0])
    truth = Boxes(np.array([[0.0, 0, 30, 20]]), label, np.zeros(1, bool), np.array([600.0]), shapes=(region(window),))
    window[:, 10:] = False
    parts = (truth.boxes.astype(np.float32), np.ones(1, np.float32), label, ("person",))
    assert found_objects(Detection(*parts), truth) == 1
    assert found_objects(Instances(*parts, (region(window),), 20, 30), truth) == 0
