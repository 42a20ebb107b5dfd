"""Labelled objects of an image, and a whole set of labelled images, whatever format they were written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.data.regions import Region, region
from edgeship.errors import DataError
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LARGEST = 1e9
"""Coordinates and areas beyond this (and NaN) are not pixels."""


@dataclass(frozen=True)
class Boxes:
    """The objects of one image.

    ``boxes`` float64 [N, 4] (x1, y1, x2, y2) in image pixels; ``labels`` int64 [N], positions in the class names;
    ``crowd`` bool [N]; ``area`` float64 [N]: the annotation's own area (of its mask, where it has one), by which the
    COCO protocol tells small from large.

    Where the labels have them: ``shapes``, for each object its polygons (a list of float64 [points, 2]), its COCO
    run-length encoding (a dict of ``size`` and ``counts``), its mask or None; ``keypoints`` float64 [N, K, 3] (x, y,
    visibility 0, 1 or 2); ``corners`` float64 [N, 4, 2] of rotated boxes.
    """

    boxes: Array
    labels: Array
    crowd: Array
    area: Array
    shapes: tuple[Any, ...] | None = None
    keypoints: Array | None = None
    corners: Array | None = None


@dataclass(frozen=True)
class LabelledImage:
    """An image that labels name: ``name`` relative to the folder of images, ``labels`` int64, one class an object.

    ``read`` gives the objects in pixels, once the image's own size is known.
    """

    name: str
    labels: Array
    read: Callable[[Geometry], Boxes]


@dataclass(frozen=True)
class Truth:
    """Labels of a whole set, checked.

    Args:
        kind: The format, as it is said.
        images: Every image that the labels name.
        classes: Class names in the order of the labels' positions.
        notes: What was left out, and what is unusual.
        numbered: The class names are only numbers.
        background: Images without a label of their own that show no object, as the format has it.
    """

    kind: str
    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    numbered: bool = False
    background: int = 0


@dataclass(frozen=True)
class Fixed:
    """Objects in pixels of an image of a known size. ``width`` 0: the labels do not tell it."""

    name: str
    width: int
    height: int
    objects: Boxes

    def __call__(self, geometry: Geometry) -> Boxes:
        """The objects, checked against the decoded image.

        Raises:
            DataError: The image has another size than its labels say, so its objects would lie elsewhere; or an object
                lies wholly outside it.
        """
        if self.width and (geometry.width, geometry.height) != (self.width, self.height):
            raise DataError(
                f"{self.name} is {geometry.width}×{geometry.height}, its annotations are for "
                f"{self.width}×{self.height}",
                expected="the image that was annotated, upright by its EXIF orientation",
            )
        _require_inside(self.name, geometry, self.objects.keypoints)
        boxes = self.objects.boxes
        outside = (boxes[:, :2] >= (geometry.width, geometry.height)).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
        if outside.any():
            raise DataError(
                f"{self.name} is {geometry.width}×{geometry.height}, and the object at "
                f"{' '.join(f'{value:g}' for value in boxes[outside][0])} lies outside it",
                expected="boxes in the pixels of this image",
                do="take the image that was labelled, or remove the object",
            )
        return self.objects


def _require_inside(name: str, geometry: Geometry, points: Array | None) -> None:
    """Refuse labelled keypoints [N, K, 3] that lie more than a pixel outside the image."""
    labelled = np.zeros((0, 2)) if points is None else points[points[..., 2] > 0][:, :2]
    away = ((labelled < -1) | (labelled > np.array([geometry.width, geometry.height]) + 1)).any(axis=1)
    if away.any():
        x, y = labelled[away][0].tolist()
        raise DataError(
            f"{name} is {geometry.width}×{geometry.height}, and the keypoint at ({x:g}, {y:g}) lies outside it",
            expected="labelled keypoints inside the image",
            do="correct it, or set its visibility to 0",
        )


def pack(rows: Sequence[tuple[Sequence[float], int, bool, float]]) -> Boxes:
    """Objects from rows of (x1, y1, x2, y2), class, crowd, area."""
    return Boxes(
        boxes=np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        crowd=np.array([row[2] for row in rows], dtype=np.bool_),
        area=np.array([row[3] for row in rows], dtype=np.float64),
    )


def class_position(where: str, name: str, classes: Mapping[str, int]) -> int:
    """The position of a labelled class among the model's.

    Raises:
        DataError: It is not one of them; the message names the nearest.
    """
    if name not in classes:
        raise DataError(
            f"{where}: {did_you_mean(name, classes)} is labelled and is not a class of the model",
            expected=f"classes out of evaluation.classes ({', '.join(list(classes)[:5])}, …)",
            do="rename the class in the labels, remove its objects, or fix evaluation.classes",
        )
    return classes[name]


def from_dict(name: str, target: Any, classes: Sequence[str]) -> Boxes:
    """Boxes given by a ``module:callable``: ``boxes`` xyxy, ``labels`` (names or indices), ``crowd``, ``area``, and
    ``masks`` [N, height, width], ``keypoints`` [N, K, 3] or ``corners`` [N, 4, 2] where the task compares them.

    Raises:
        DataError: Missing keys, other shapes, boxes without area, or unknown classes.
    """
    if isinstance(target, Boxes):
        return target
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
        raise DataError(f"the target of {name} is {type(target).__name__}", expected="a dict with boxes and labels")
    boxes = _corners(name, target["boxes"])
    position = {label: number for number, label in enumerate(classes)}
    labels = []
    for label in target["labels"]:
        number = position.get(label, -1) if isinstance(label, str) else int(label)
        if not 0 <= number < len(classes):
            raise DataError(f"{name}: label {did_you_mean(str(label), classes)} is not a class")
        labels.append(number)
    if len(labels) != len(boxes):
        raise DataError(f"{name} has {len(boxes)} boxes and {len(labels)} labels")
    crowd = np.asarray(target.get("crowd", np.zeros(len(boxes))), dtype=np.bool_)
    area = np.asarray(target.get("area", np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)), dtype=np.float64)
    if not len(boxes) == crowd.size == area.size:
        raise DataError(f"{name} has {len(boxes)} boxes, {crowd.size} crowd flags and {area.size} areas")
    masks = _masks(name, target["masks"], len(boxes)) if "masks" in target else None
    if masks is not None and "area" not in target:
        area = np.array([mask.area for mask in masks], dtype=np.float64)
    points = _numbers(name, "keypoints", target)
    if (
        points is not None
        and (points.ndim != 3 or points.shape[::2] != (len(boxes), 3))
        and (points.size or len(boxes))
    ):
        expected = f"[{len(boxes)}, keypoints, 3]: x, y, visibility"
        raise DataError(f"{name} has keypoints of shape {list(points.shape)}", expected=expected)
    known = np.array(labels, dtype=np.int64)
    corners = _numbers(name, "corners", target)
    if corners is not None and corners.shape != (len(boxes), 4, 2):
        raise DataError(f"{name} has corners of shape {list(corners.shape)}", expected=f"[{len(boxes)}, 4, 2]")
    return Boxes(boxes, known, crowd, area, shapes=masks, keypoints=points, corners=corners)


def _numbers(name: str, key: str, target: Mapping[str, Any]) -> Array | None:
    if key not in target:
        return None
    try:
        return np.asarray(target[key], dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"the {key} of {name} are not one array of numbers", expected="as many for every box") from None


def _masks(name: str, value: Any, count: int) -> tuple[Region, ...]:
    try:
        masks = np.asarray(value)
    except ValueError:
        raise DataError(f"the masks of {name} are of several sizes", expected=f"[{count}, height, width]") from None
    if masks.ndim != 3 or len(masks) != count:
        if masks.size == 0 and count == 0:
            return ()
        raise DataError(f"{name} has masks of shape {list(masks.shape)}", expected=f"[{count}, height, width]")
    size = int(masks.shape[1]), int(masks.shape[2])
    return tuple(replace(region(mask.astype(np.bool_)), image=size) for mask in masks)


def _corners(name: str, value: Any) -> Array:
    boxes = np.asarray(value, dtype=np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{name} has boxes of shape {list(boxes.shape)}", expected="[number, 4]: x1, y1, x2, y2")
    fit = (np.abs(boxes) < LARGEST).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not fit.all():
        raise DataError(
            f"{name} has the box {boxes[~fit][0].tolist()}",
            expected="x1, y1, x2, y2 in pixels, with x1 < x2 and y1 < y2",
            do="convert boxes of (x, y, width, height), and leave out those without area",
        )
    return boxes


def relative(where: object, name: str) -> str:
    """An image's name below the folder of images.

    Raises:
        DataError: It leads out of that folder.
    """
    path = Path(name)
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or not path.parts:
        raise DataError(
            f"{where}: the image name {name!r} leads out of the image folder",
            do="write it relative to evaluation.images",
        )
    return path.as_posix()
