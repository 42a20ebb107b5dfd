"""Masks of objects: equal to pycocotools, whatever they were written as."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from edgeship.data.objects import from_dict
from edgeship.data.regions import filled, from_shape, intersections, region, to_runs
from edgeship.data.shapes import coco_shape
from edgeship.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")


def polygon(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Points in and around an image, some of them whole numbers, some repeated."""
    points = random.uniform(-8, max(height, width) + 8, (random.integers(3, 12), 2))
    if random.random() < 0.3:
        points = np.round(points)
    if random.random() < 0.2:
        points[1] = points[0]
    return points


def test_polygons_and_run_lengths_are_those_of_pycocotools() -> None:
    random = np.random.default_rng(0)
    for _ in range(150):
        height, width = (int(side) for side in random.integers(4, 60, 2))
        points = polygon(random, height, width)
        wanted = coco.decode(coco.frPyObjects([points.ravel().tolist()], height, width))[:, :, 0].astype(bool)
        found = filled(points, height, width)
        assert np.array_equal(found.whole(height, width), wanted)
        assert found.area == wanted.sum()
        packed = coco.encode(np.asfortranarray(wanted.astype(np.uint8)))["counts"]
        for counts in (packed, packed.decode(), to_runs(found, height, width)):
            again = from_shape({"size": [height, width], "counts": counts}, height, width)
            assert np.array_equal(again.whole(height, width), wanted)


def test_several_polygons_are_one_object() -> None:
    parts = [np.array([[1, 1], [6, 1], [6, 6], [1, 6]], float), np.array([[4, 4], [9, 4], [9, 9], [4, 9]], float)]
    wanted = coco.decode(coco.merge(coco.frPyObjects([part.ravel().tolist() for part in parts], 10, 12)))
    assert np.array_equal(from_shape(parts, 10, 12).whole(10, 12), wanted.astype(bool))


def test_intersections_count_shared_pixels() -> None:
    random = np.random.default_rng(1)
    masks = random.random((4, 9, 13)) < 0.4
    masks[3] = False
    found = intersections([region(mask) for mask in masks], [region(mask) for mask in masks])
    assert found.tolist() == [[int((a & b).sum()) for b in masks] for a in masks]


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([[1, 1, 2, 2]], "a polygon of 4 numbers"),
        ([[1, 1, 2, 2, 3]], "a polygon of 5 numbers"),
        ([], "has segmentation"),
        ({"size": [2, 2], "counts": [1, 2]}, "run lengths of 3 pixels for the size [2, 2]"),
        ({"size": [2, 2], "counts": [1, -2, 5]}, "has run lengths"),
        ({"size": [2, 2], "counts": "\x7f\x7f"}, "has run lengths"),
        ({"size": [2, 2], "counts": [2**63 - 1, 2**63 - 1, 6]}, "has run lengths"),
        ({"size": [2, 2], "counts": [2**64 - 1, 5]}, "has run lengths"),
        ({"size": [2, 2], "counts": "o" * 12 + "O"}, "has run lengths"),
        ({"size": "22", "counts": [4]}, "for the size 22"),
    ],
)
def test_a_shape_that_is_none_is_refused_with_its_annotation(segmentation: object, says: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: annotation 7") as refused:
        coco_shape("a.json: annotation 7", segmentation)
    assert says in str(refused.value)


def test_run_lengths_of_another_image_size_are_refused() -> None:
    with pytest.raises(DataError, match="a mask is of 2×3 pixels, the image of 3×2"):
        from_shape({"size": [3, 2], "counts": [6]}, 2, 3)


def test_masks_of_another_image_size_are_refused() -> None:
    masks = np.ones((1, 3, 2), dtype=np.bool_)
    target = from_dict("a.png", {"boxes": [[0, 0, 2, 3]], "labels": [0], "masks": masks}, ["cup"])
    assert target.shapes is not None
    assert from_shape(target.shapes[0], 3, 2).area == 6
    with pytest.raises(DataError, match="a mask is of 2×3 pixels, the image of 4×6"):
        from_shape(target.shapes[0], 6, 4)


def test_a_polygon_of_another_world_is_refused_before_it_is_walked() -> None:
    with pytest.raises(DataError, match=r"a polygon reaches 1e\+09 pixels, the image is 20×10"):
        from_shape([np.array([[0.0, 0.0], [1e9, 0.0], [5.0, 5.0]])], 10, 20)
