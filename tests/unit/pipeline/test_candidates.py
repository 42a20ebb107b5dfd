"""The sizes that a target builds for."""

from __future__ import annotations

import pytest

from edgeship.config import Batch, Preprocess, ShapeRange, Target
from edgeship.errors import DataError
from edgeship.pipeline.candidates import sized
from edgeship.results import TensorInfo

IMAGES = TensorInfo(name="images", shape=("batch", 3, "height", "width"), dtype="float32")
FIXED = TensorInfo(name="images", shape=("batch", 3, 224, 224), dtype="float32")
TARGET = Target(batch=Batch(min=1, opt=4, max=8))


def test_dynamic_axes_take_the_size_that_calibration_and_the_vehicle_use() -> None:
    found = sized(TARGET, (IMAGES,), Preprocess(size=(480, 640)))
    expected = ShapeRange(min=(1, 3, 480, 640), opt=(4, 3, 480, 640), max=(8, 3, 480, 640))
    assert found.shapes == {"images": expected}


def test_a_range_of_the_config_stays_as_it_is() -> None:
    given = ShapeRange(min=(1, 3, 64, 64), opt=(1, 3, 96, 96), max=(1, 3, 128, 128))
    target = Target(shapes={"images": given})
    assert sized(target, (IMAGES,), Preprocess(size=(480, 640))) == target


def test_a_model_of_fixed_sizes_needs_no_range() -> None:
    assert sized(TARGET, (FIXED,), None) == TARGET


@pytest.mark.parametrize("preprocess", [None, Preprocess()])
def test_a_size_that_nothing_tells_is_asked_for(preprocess: Preprocess | None) -> None:
    with pytest.raises(DataError, match="dynamic axes beside the batch") as caught:
        sized(TARGET, (IMAGES,), preprocess)
    assert "preprocess.size" in str(caught.value) and "target.shapes.images" in str(caught.value)
