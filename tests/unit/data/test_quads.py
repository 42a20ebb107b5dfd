"""Boxes that stand at an angle: equal to shapely, for boxes that touch, coincide and lie in one another."""

from __future__ import annotations

import numpy as np
import shapely

from edgeship.data import quads


def boxes(random, count):
    angle = random.uniform(-4, 4, count)
    return quads.from_angles(random.uniform(0, 100, (count, 2)), np.exp(random.uniform(0, 4, (count, 2))), angle)


def by_shapely(ours, others):
    left, right = ([shapely.Polygon(item) for item in corners] for corners in (ours, others))
    return np.array([[a.intersection(b).area / a.union(b).area for b in right] for a in left])


def test_iou_is_that_of_shapely():
    random = np.random.default_rng(0)
    ours, others = boxes(random, 30), boxes(random, 30)
    others[:5] = ours[:5]
    others[5:8] = ours[5:8, ::-1]
    others[8:11] = np.roll(ours[8:11], 1, axis=1)
    others[11] = ours[11] + (ours[11, 1] - ours[11, 0])
    others[12] = ours[12].mean(axis=0) + (ours[12] - ours[12].mean(axis=0)) / 3
    upright = quads.from_angles(np.round(random.uniform(0, 90, (4, 2))), np.full((4, 2), 10.0), np.zeros(4))
    ours[13:17], others[13:17] = upright, upright + np.array([5.0, 0.0])
    assert np.abs(quads.iou(ours, others) - by_shapely(ours, others)).max() < 1e-9
    assert np.abs(quads.areas(ours) - [shapely.Polygon(item).area for item in ours]).max() < 1e-9


def test_an_angle_turns_the_width_clockwise_in_the_image():
    (found,) = quads.from_angles(np.array([[10.0, 20.0]]), np.array([[8.0, 2.0]]), np.array([np.pi / 2]))
    assert np.allclose(np.sort(found, axis=0), [[9, 16], [9, 16], [11, 24], [11, 24]])
    (tilted,) = quads.from_angles(np.array([[0.0, 0.0]]), np.array([[8.0, 0.0]]), np.array([np.pi / 6]))
    assert tilted[0, 1] > 0  # y points down: the right end is lower


def test_corners_that_cross_are_not_convex():
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    assert quads.convex(np.stack([square, square[::-1], square[[0, 2, 1, 3]], square * 0])).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_suppression_keeps_the_best_of_each_class():
    centre = np.array([[50.0, 50], [50, 50], [50, 50], [50, 50]])
    size = np.array([[40.0, 4], [40, 4], [40, 4], [40, 4]])
    corners = quads.from_angles(centre, size, np.array([0.0, 0.02, np.pi / 2, 0.0]))
    kept = quads.nms(corners, np.array([0.6, 0.9, 0.5, 0.4]), np.array([0, 0, 0, 1]), 0.5, 10)
    assert kept.tolist() == [1, 2, 3]
    assert quads.nms(corners, np.array([0.6, 0.9, 0.5, 0.4]), np.array([0, 0, 0, 1]), 0.5, 2).tolist() == [1, 2]
