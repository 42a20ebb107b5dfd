"""Connected regions and the smallest box around one, against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeship.data.components import outlines, smallest_box


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6])
def test_regions_are_opencvs(share: float) -> None:
    mask = np.random.default_rng(7).random((40, 61)) < share
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    found = outlines(mask, 10_000)
    assert len(found) == count - 1
    for points in found:
        x, y = points.astype(int).T
        (name,) = set(labels[y, x])
        ys, xs = np.nonzero(labels == name)
        assert (x.min(), x.max(), y.min(), y.max()) == (xs.min(), xs.max(), ys.min(), ys.max())


def test_the_largest_regions_are_kept() -> None:
    mask = np.zeros((10, 10), dtype=np.bool_)
    mask[0, 0] = mask[2, :3] = mask[5:8, 5:8] = True
    assert [len(points) for points in outlines(mask, 2)] == [2, 6]
    assert not outlines(np.zeros((4, 4), dtype=np.bool_), 5)


def test_the_smallest_box_is_opencvs() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        points = random.integers(0, 50, (12, 2)).astype(np.float64)
        corners, sides = smallest_box(points)
        (_, other, _) = cv2.minAreaRect(points.astype(np.float32))
        assert sides.prod() == pytest.approx(np.prod(other), rel=1e-4)
        assert np.hypot(*(corners[1] - corners[0])) == pytest.approx(sides[0])
        assert np.hypot(*(corners[3] - corners[0])) == pytest.approx(sides[1])


@pytest.mark.parametrize(("points", "sides"), [([[3.0, 4.0]], [0, 0]), ([[0.0, 0.0], [3.0, 4.0]], [5, 0])])
def test_points_without_area_have_a_box(points: list[list[float]], sides: list[float]) -> None:
    assert smallest_box(np.array(points))[1] == pytest.approx(sides)
