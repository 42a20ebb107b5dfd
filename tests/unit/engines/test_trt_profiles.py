"""Optimization profiles: filled from the batch and the user's ranges, and refused before anything is built."""

from __future__ import annotations

import pytest

from edgeship.config import Batch, ShapeRange, Target
from edgeship.engines.trt.profiles import plan_profiles
from edgeship.errors import ConfigError
from edgeship.results import TensorInfo

IMAGES = TensorInfo(name="images", shape=("batch", 3, 32, 32), dtype="float32")
FIXED = TensorInfo(name="images", shape=(2, 3, 32, 32), dtype="float32")
FREE = TensorInfo(name="images", shape=("batch", 3, "height", "width"), dtype="float32")
NONE: frozenset[str] = frozenset()


def problems(tensor: TensorInfo, target: Target, shape_inputs: frozenset[str] = NONE) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_profiles([tensor], target, shape_inputs)
    return str(caught.value)


def test_the_batch_range_fills_a_dynamic_first_axis() -> None:
    found = plan_profiles([IMAGES], Target(batch=Batch(min=1, opt=8, max=16)), NONE)
    assert found == {"images": ((1, 3, 32, 32), (8, 3, 32, 32), (16, 3, 32, 32))}


def test_a_fixed_shape_is_its_own_profile() -> None:
    assert plan_profiles([FIXED], Target(), NONE) == {"images": ((2, 3, 32, 32),) * 3}


def test_a_batch_range_on_a_fixed_axis_is_refused() -> None:
    text = problems(FIXED, Target(batch=Batch(min=1, opt=4, max=8)))
    assert "first axis is fixed to 2 by the export, and batch asks for 1..8" in text
    assert plan_profiles([FIXED], Target(batch=Batch(min=2, opt=2, max=2)), NONE)


def test_dynamic_height_and_width_without_a_range_are_refused_with_the_reason() -> None:
    text = problems(FREE, Target())
    assert "axis 2 ('height'), axis 3 ('width') is dynamic and has no range in shapes.images" in text
    assert "slower" in text
    assert "locks the axis to one size" in text


def test_a_range_of_the_users_own() -> None:
    given = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 64, 64), max=(2, 3, 128, 96))
    found = plan_profiles([FREE], Target(shapes={"images": given}), NONE)
    assert found["images"][2] == (2, 3, 128, 96)


def test_every_problem_is_said_at_once() -> None:
    wrong = ShapeRange(min=(4, 3, 32, 32), opt=(2, 1, 32, 32), max=(8, 3, 32, 32))
    unknown = ShapeRange(min=(1,), opt=(1,), max=(1,))
    text = problems(IMAGES, Target(shapes={"images": wrong, "pictures": unknown}))
    assert "3 problems" in text
    assert "shapes.pictures: no such input; the network's inputs are images" in text
    assert "needs min <= opt <= max" in text
    assert "axis 1 is fixed to 3, the range asks for [1, 3]" in text


def test_a_range_of_another_rank() -> None:
    wrong = ShapeRange(min=(1, 3), opt=(1, 3), max=(1, 3))
    assert "the input has 4 axes, min/opt/max have 2/2/2" in problems(IMAGES, Target(shapes={"images": wrong}))


def test_a_shape_input_needs_the_range_of_its_values() -> None:
    size = TensorInfo(name="size", shape=(2,), dtype="int64")
    assert "carries a shape" in problems(size, Target(), frozenset({"size"}))
    given = ShapeRange(min=(16, 16), opt=(32, 32), max=(64, 64))
    found = plan_profiles([size], Target(shapes={"size": given}), frozenset({"size"}))
    assert found == {"size": ((16, 16), (32, 32), (64, 64))}
    short = ShapeRange(min=(16,), opt=(32,), max=(64,))
    assert "carries 2 values, the range has 1" in problems(size, Target(shapes={"size": short}), frozenset({"size"}))
