"""Which detection finds which object: the greedy matching of the COCO protocol, in numpy.

Follows ``COCOeval.evaluateImg`` of pycocotools: detections in order of score; each takes the free object of its class
with the highest IoU at or above the threshold, counted objects before ignored ones; crowd objects are ignored, may be
taken many times, and their IoU is the intersection over the detection's own area.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeship.metrics import Array

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Square pixels of the image, both ends included."""
MAX_DETECTIONS = 100
"""Of one class in one image; further ones are not looked at."""
WRONG, RIGHT, UNCOUNTED = 0, 1, 2
"""What a detection is by :func:`match_devkit`."""
_LOW = np.array([low for low, _ in AREAS.values()])
_HIGH = np.array([high for _, high in AREAS.values()])
_BITS = (1 << np.arange(len(IOU_THRESHOLDS))).astype(np.uint16)
_THRESHOLDS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)


@dataclass(frozen=True)
class Matches:
    """One class in one image: D detections by falling score, G objects, A area ranges.

    ``matched`` and ``ignored`` uint16 [D, A]: bit t stands for IoU threshold t; ``ignored``: what was matched does not
    count. ``out_of_range`` bool [G, A]: the object does not count there (another size, or a crowd). ``finder`` int64
    [G]: the detection that took the object at IoU 0.5 over all areas, or -1.
    """

    matched: Array
    ignored: Array
    out_of_range: Array
    finder: Array


def iou_matrix(detections: Array, objects: Array, crowd: Array) -> Array:
    """IoU float64 [D, G] of boxes (x1, y1, x2, y2); for crowds the intersection over the detection's area."""
    (x1, y1, x2, y2), (left, top, right, bottom) = detections.T[..., None], objects.T
    inside = np.maximum(np.minimum(x2, right) - np.maximum(x1, left), 0.0)
    inside *= np.maximum(np.minimum(y2, bottom) - np.maximum(y1, top), 0.0)
    own, other = areas(detections)[:, None], areas(objects)[None, :]
    union = own + other - inside
    if crowd.any():
        union = np.where(crowd[None, :], own, union)
    overlap: Array = np.divide(inside, union, out=np.zeros_like(inside), where=(inside > 0) & (union > 0))
    return overlap


def areas(boxes: Array) -> Array:
    """Width times height of boxes (x1, y1, x2, y2): float64 [N]."""
    sides = boxes[:, 2:] - boxes[:, :2]
    result: Array = sides[:, 0] * sides[:, 1]
    return result


def match(overlap: Array, crowd: Array, area: Array, ignored: Array) -> Matches:
    """Match one class in one image.

    Args:
        overlap: float64 [D, G]: how well detections, by falling score, fit objects, 0 to 1: IoU, or what stands in
            its place.
        crowd: bool [G]: may be taken many times.
        area: float64 [G]: the annotations' own areas.
        ignored: bool [G]: does not count, whatever its area.
    """
    detections, objects = overlap.shape
    out_of_range = ignored[:, None] | (area[:, None] < _LOW) | (area[:, None] > _HIGH)
    if objects == 0 or detections == 0:
        nothing = np.zeros((detections, len(AREAS)), dtype=np.uint16)
        finder = np.full(objects, -1, dtype=np.int64)
        return Matches(nothing, nothing, out_of_range, finder)
    touched = overlap >= _THRESHOLDS[0]
    contested = touched[touched.sum(axis=1) > 1].any(axis=0) | crowd
    matched, ignored, finder = _match_alone(overlap, touched & ~contested, out_of_range)
    if contested.any():
        rows = np.flatnonzero((touched & contested).any(axis=1))
        columns = np.flatnonzero(contested)
        some = _match_many(overlap[np.ix_(rows, columns)], out_of_range[columns], crowd[columns])
        matched[rows], ignored[rows] = some[0], some[1]
        taken = some[2] >= 0
        finder[columns[taken]] = rows[some[2][taken]]
    return Matches(matched, ignored, out_of_range, finder)


def match_devkit(overlap: Array, difficult: Array) -> Array:
    """Match one class in one image as the development kits of DOTA and Pascal VOC do: each detection, by falling score,
    takes the object that it fits best, or nothing where a better one took that.

    Args:
        overlap: As of :func:`match`; an object is found above an IoU of 0.5.
        difficult: bool [G]: what finds such an object counts nowhere.

    Returns:
        uint8 [D]: :data:`WRONG`, :data:`RIGHT` or :data:`UNCOUNTED`.
    """
    found = np.full(len(overlap), WRONG, dtype=np.uint8)
    if overlap.size == 0:
        return found
    best = overlap.argmax(axis=1)
    above = overlap[np.arange(len(best)), best] > IOU_THRESHOLDS[0]
    found[above & difficult[best]] = UNCOUNTED
    rows = np.flatnonzero(above & ~difficult[best])
    found[rows[np.unique(best[rows], return_index=True)[1]]] = RIGHT
    return found


def outside_bits(size: Array, matched: Array) -> Array:
    """Bits uint16 [D, A] of unmatched detections whose own area is out of the range: neither right nor wrong there.

    ``size`` float64 [D]: their areas.
    """
    outside = (size[:, None] < _LOW) | (size[:, None] > _HIGH)
    every = np.uint16(_BITS.sum())
    return np.where(outside, ~matched & every, np.uint16(0)).astype(np.uint16)


def _match_alone(overlap: Array, touched: Array, out_of_range: Array) -> tuple[Array, Array, Array]:
    """Objects of which no detection could take another one: the first detection above each threshold takes it, in every
    area range alike.

    ``touched`` bool [D, G]: the detections that could take each of these objects, at most one in a row; none elsewhere.
    """
    detections, objects = overlap.shape
    steps, able, owner = len(_THRESHOLDS), touched.any(axis=0), touched.argmax(axis=1)
    rows = np.flatnonzero(touched.any(axis=1))
    best = np.full((objects, steps), detections, dtype=np.int64)
    reached = overlap[rows, owner[rows], None] >= _THRESHOLDS
    np.minimum.at(best, owner[rows], np.where(reached, rows[:, None], detections))
    taken = best[able]
    found = taken < detections
    weights = np.broadcast_to(_BITS, found.shape)[found]
    bits = np.bincount(taken[found], weights, minlength=detections).astype(np.uint16)
    matched = np.repeat(bits[:, None], len(AREAS), axis=1)
    finder = np.where(best[:, 0] < detections, best[:, 0], -1)
    return matched, np.where(out_of_range[owner], matched, np.uint16(0)), finder


def _match_many(overlap: Array, out_of_range: Array, crowd: Array) -> tuple[Array, Array, Array]:
    count, objects = overlap.shape
    matched = np.zeros((count, len(AREAS)), dtype=np.uint16)
    ignored = np.zeros((count, len(AREAS)), dtype=np.uint16)
    finder = np.full(objects, -1, dtype=np.int64)
    ranges, steps = np.ogrid[: len(AREAS), : len(_THRESHOLDS)]
    free = np.ones((len(AREAS), len(_THRESHOLDS), objects), dtype=np.bool_)
    # Counted objects come first, and among equal IoU the last one: hence the bonus and the reversed order.
    bonus = np.where(out_of_range.T, 0.0, 2.0)[:, None, ::-1]
    backwards, crowd_back, ignored_back = overlap[:, ::-1], crowd[::-1], out_of_range[::-1].T
    for index in np.flatnonzero(overlap.max(axis=1) >= _THRESHOLDS[0]):
        row = backwards[index]
        able = (row >= _THRESHOLDS[:, None])[None] & free
        value = (row + bonus) * able
        best = value.argmax(axis=2)
        taken = value[ranges, steps, best] > 0
        free[ranges, steps, best] &= ~taken | crowd_back[best]
        matched[index] = taken @ _BITS
        ignored[index] = (taken & ignored_back[ranges, best]) @ _BITS
        if taken[0, 0] and finder[objects - 1 - best[0, 0]] < 0:
            finder[objects - 1 - best[0, 0]] = index
    return matched, ignored, finder
