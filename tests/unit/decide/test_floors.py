"""What a metric reaches by itself, and what the images cannot rule out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeship.decide.agreement import compare_answers
from edgeship.decide.drops import Reference
from edgeship.decide.floors import level


def numbers(values: np.ndarray, *, lower: tuple[str, ...] = ()) -> dict[str, Any]:
    ids = np.arange(len(values)).astype(np.str_)
    return {"task": np.array("own:score"), "classes": np.array(["a"]), "lower": np.array(lower), "value/m": values,
            "ids": ids, "digests": ids}  # fmt: skip


def regions(images: int, wrong: float) -> dict[str, Any]:
    labelled = np.full((images, 2), 1000)
    right = np.round(labelled * (1 - wrong)).astype(int)
    return {"task": np.array("segmentation"), "classes": np.array(["road", "person"]), "labelled": labelled,
            "intersection": right, "predicted": right, "ids": np.arange(images).astype(np.str_)}  # fmt: skip


def bounds(records: dict[str, Any], name: str) -> tuple[float, float]:
    found = level(Reference(records, 0.95, 400), records, name)
    assert found is not None
    return found.lower, found.upper


@pytest.mark.parametrize("images", [20, 100])
def test_a_floor_holds_what_no_image_shows(images: int) -> None:
    values = np.random.default_rng(0).uniform(0.89, 0.91, images)
    unseen = 1 - 0.05 ** (1 / images)
    assert bounds(numbers(values), "m")[0] == pytest.approx(values.mean() - unseen, abs=1e-9)
    assert bounds(regions(images, 0.05), "miou")[0] <= 0.95 - unseen + 1e-9
    less = numbers(values / 10, lower=("m",))
    assert bounds(less, "m")[1] >= values.mean() / 10 + unseen - 1e-9


def test_a_failure_that_is_seen_is_in_the_figure() -> None:
    values = np.random.default_rng(0).uniform(0.89, 0.91, 400)
    values[:8] = 0.1
    lower = bounds(numbers(values), "m")[0]
    assert values.mean() - 0.03 < lower < values.mean()
    assert lower > values.mean() - 0.02


def test_few_masks_that_agree_leave_one_possible_that_does_not() -> None:
    grid = np.zeros((20, 8, 8), np.int16)
    other = grid.copy()
    other[:, 0, 0] = 1
    before = {"task": np.array("segmentation"), "ids": np.arange(20).astype(np.str_), "grid": grid}
    found = compare_answers(Reference(before, 0.95, 400), {**before, "grid": other})
    assert found is not None
    assert found.sure == pytest.approx(1 - 1 / 64 - (1 - 0.05 ** (1 / 20)))
