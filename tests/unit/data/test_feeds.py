"""Noise of real sizes, and batches filled from frames."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Preprocess
from edgeship.data.feeds import (
    TRIED_SIZES,
    batch_of,
    fill_rows,
    full_shapes,
    known_shapes,
    noise,
    possible_shapes,
)
from edgeship.errors import DataError
from edgeship.results import TensorInfo

IMAGE = TensorInfo(name="x", shape=("batch", 3, "height", "width"), dtype="float32")


def test_a_size_written_once_fixes_the_image_and_every_axis_of_that_name() -> None:
    mask = TensorInfo(name="mask", shape=("batch", "height", "width"), dtype="bool")
    known = known_shapes([IMAGE, mask], Preprocess(size=(480, 640)))
    assert known == {"x": (1, 3, 480, 640)}
    assert full_shapes([IMAGE, mask], 4, known) == {"x": (4, 3, 480, 640), "mask": (4, 480, 640)}


def test_the_layout_says_where_height_and_width_are() -> None:
    image = TensorInfo(name="x", shape=("n", "h", "w", 3), dtype="uint8")
    assert known_shapes([image], Preprocess(size=(4, 6), layout="nhwc")) == {"x": (1, 4, 6, 3)}


def test_shapes_of_the_target_come_before_the_preprocessing() -> None:
    known = known_shapes([IMAGE], Preprocess(size=(480, 640)), {"x": (8, 3, 320, 352)})
    assert full_shapes([IMAGE], 2, known) == {"x": (2, 3, 320, 352)}


def test_two_pictures_without_a_choice_are_not_guessed() -> None:
    other = IMAGE.model_copy(update={"name": "y"})
    assert known_shapes([IMAGE, other], Preprocess(size=(8, 8))) == {}
    assert known_shapes([IMAGE, other], Preprocess(size=(8, 8), input="y")) == {"y": (1, 3, 8, 8)}


def test_an_unknown_axis_is_named() -> None:
    with pytest.raises(DataError, match="dynamic axes beside the batch") as caught:
        full_shapes([IMAGE], 1)
    assert "the size of 'height'" in str(caught.value)
    assert "--shape x=1x3x480x640" in str(caught.value)


def test_unknown_sizes_are_tried_in_multiples_of_32() -> None:
    tried = [shapes["x"] for shapes in possible_shapes([IMAGE], 2)]
    assert tried == [(2, 3, *pair) for pair in TRIED_SIZES]
    assert all(size % 32 == 0 for pair in TRIED_SIZES for size in pair)
    assert list(possible_shapes([IMAGE], 2, {"x": (1, 3, 5, 7)})) == [{"x": (2, 3, 5, 7)}]


def test_axes_without_a_name_are_not_one_axis() -> None:
    tensors = [TensorInfo(name=name, shape=("axis0", "axis1"), dtype="float32") for name in "ab"]
    assert full_shapes(tensors, 1, {"a": (1, 5), "b": (1, 9)}) == {"a": (1, 5), "b": (1, 9)}


@pytest.mark.parametrize(("dtype", "low", "high"), [("int64", 0, 1), ("bool", 0, 1), ("uint8", 0, 255)])
def test_noise_of_whole_numbers(dtype: str, low: int, high: int) -> None:
    made = noise([TensorInfo(name="x", shape=(2, 3, 64, 64), dtype=dtype)], {"x": (2, 3, 64, 64)})["x"]
    assert made.dtype == dtype
    assert (made.min(), made.max()) == (low, high)


def test_noise_is_seeded_and_keeps_to_its_bounds() -> None:
    shapes = {"x": (1, 3, 8, 8)}
    first, again, other = (noise([IMAGE], shapes, seed)["x"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    bounded = noise([IMAGE], shapes, bounds={"x": (3.0, 4.0)})["x"]
    assert bounded.min() >= 3.0
    assert bounded.max() <= 4.0
    steps = TensorInfo(name="k", shape=(), dtype="int64")
    assert noise([steps], {"k": ()}, bounds={"k": (7, 7)})["k"] == 7


def test_rows_begin_again_when_they_run_out() -> None:
    rows = np.arange(3)
    assert fill_rows(rows, 2).tolist() == [0, 1]
    assert fill_rows(rows, 5).tolist() == [0, 1, 2, 0, 1]
    assert fill_rows(rows, 2, start=2).tolist() == [2, 0]
    with pytest.raises(DataError, match="frames are empty"):
        fill_rows(rows[:0], 1)


def test_a_batch_keeps_fixed_axes_and_scalars() -> None:
    inputs = [
        TensorInfo(name="x", shape=("batch", 1), dtype="float32"),
        TensorInfo(name="anchors", shape=(4,), dtype="float32"),
        TensorInfo(name="scale", shape=(), dtype="float32"),
    ]
    frames = {
        "scale": np.float32(2).reshape(()),
        "x": np.arange(3.0)[:, None],
        "anchors": np.arange(4.0),
        "rest": np.zeros(1),
    }
    feeds = batch_of(frames, inputs, 2, start=2)
    assert list(feeds) == ["x", "anchors", "scale"]
    assert feeds["x"].tolist() == [[2.0], [0.0]]
    assert feeds["anchors"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert feeds["scale"] == 2.0
    with pytest.raises(DataError, match="the frames have no 'anchors'; they give x"):
        batch_of({"x": frames["x"]}, inputs, 2)
