"""COCO JSON: images, boxes, categories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


LARGEST = 1e9
"""Coordinates and areas beyond this (and NaN) are no pixels."""


@dataclass(frozen=True)
class Boxes:
    """The objects of one image.

    ``boxes`` float64 [N, 4] (x1, y1, x2, y2) in image pixels; ``labels`` int64 [N], positions in the class names;
    ``crowd`` bool [N]; ``area`` float64 [N]: the annotation's own area (of its mask, where it has one), by which the
    COCO protocol tells small from large.
    """

    boxes: Array
    labels: Array
    crowd: Array
    area: Array


@dataclass(frozen=True)
class CocoImage:
    """One image of a COCO JSON and its objects."""

    file_name: str
    width: int
    height: int
    objects: Boxes

    def load(self, geometry: Geometry) -> Boxes:
        """The objects, checked against the decoded image.

        Raises:
            DataError: The image has another size than the JSON says, so its boxes would lie elsewhere.
        """
        if self.width and (geometry.width, geometry.height) != (self.width, self.height):
            raise DataError(
                f"{self.file_name} is {geometry.width}×{geometry.height}, its annotations are for "
                f"{self.width}×{self.height}",
                expected="the image that was annotated, upright by its EXIF orientation",
            )
        return self.objects


@dataclass(frozen=True)
class Truth:
    """A COCO JSON, checked. ``notes`` say what was clipped or left out."""

    images: tuple[CocoImage, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read(path: Path, names: Sequence[str] | None) -> Truth:
    """Read and check a COCO JSON.

    Boxes that reach outside their image are kept as they are, as the COCO protocol does; boxes without area and
    boxes wholly outside are left out and counted in the notes.

    Args:
        path: The file.
        names: The model's class names in the order of its outputs; default: the categories, sorted by id.

    Raises:
        DataError: Absent, malformed, an annotation of an unknown image or category, or a category that is no class.
    """
    content = _content(path)
    categories = _categories(path, content["categories"])
    classes = tuple(names) if names is not None else tuple(categories[key] for key in sorted(categories))
    position = {name: number for number, name in enumerate(classes)}
    images = _images(path, content["images"])
    objects: dict[Any, list[tuple[list[float], int, bool, float]]] = {key: [] for key in images}
    left_out = {"without area": 0, "wholly outside their image": 0}
    for number, annotation in enumerate(content["annotations"]):
        _check(path, number, annotation, images, categories)
        name_ = categories[annotation["category_id"]]
        if name_ not in position:
            raise DataError(
                f"{path}: category {did_you_mean(name_, classes)} has annotations and is no class of the model",
                expected=f"categories out of evaluation.classes ({', '.join(classes[:5])}, …)",
                do="rename the category, remove its annotations, or mend evaluation.classes",
            )
        x, y, w, h = (float(value) for value in annotation["bbox"])
        image = images[annotation["image_id"]]
        if w <= 0 or h <= 0:
            left_out["without area"] += 1
        elif _outside(image, x, y, w, h):
            left_out["wholly outside their image"] += 1
        else:
            area = float(annotation.get("area", w * h))
            entry = ([x, y, x + w, y + h], position[name_], bool(annotation.get("iscrowd", 0)), area)
            objects[annotation["image_id"]].append(entry)
    notes = tuple(f"{count} boxes {what} were left out of {path.name}" for what, count in left_out.items() if count)
    ordered = sorted(images.values(), key=lambda image: str(image["file_name"]))
    found = tuple(
        CocoImage(
            str(image["file_name"]),
            int(image.get("width", 0)),
            int(image.get("height", 0)),
            _pack(objects[image["id"]]),
        )
        for image in ordered
    )
    return Truth(found, classes, notes)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the COCO JSON {path} cannot be read: {error}", do="mend evaluation.labels") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), list) or not all(isinstance(row, dict) for row in content[key])
        for key in lists
    ):
        raise DataError(
            f"{path} is no COCO JSON",
            expected="an object with lists of images, annotations, categories",
            do="name the annotations that belong to the images in evaluation.labels",
        )
    return content


def _images(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        whole = all(isinstance(row.get(key, 0), int) for key in ("width", "height"))
        if not _is_key(row.get("id")) or "file_name" not in row or not whole:
            raise DataError(
                f"{path}: an image without id or file_name, or with another size than whole pixels: {str(row)[:80]}"
            )
        if row["id"] in found:
            raise DataError(f"{path}: two images have the id {row['id']}")
        name = Path(str(row["file_name"]))
        if name.is_absolute() or ".." in name.parts:
            raise DataError(
                f"{path}: file_name {str(name)!r} leads out of the image folder",
                do="write file_name relative to evaluation.images",
            )
        found[row["id"]] = row
    return found


def _categories(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for row in rows:
        if not _is_key(row.get("id")) or not isinstance(row.get("name"), str):
            raise DataError(f"{path}: a category without id or name: {str(row)[:80]}")
        if row["id"] in found or row["name"] in found.values():
            raise DataError(f"{path}: the category {row['name']!r} (id {row['id']}) stands twice")
        found[row["id"]] = str(row["name"])
    return found


def _check(
    path: Path, number: int, row: Mapping[str, Any], images: Mapping[Any, Any], categories: Mapping[Any, str]
) -> None:
    label = f"{path}: annotation {row.get('id', number)}"
    if not _is_key(row.get("image_id")) or row["image_id"] not in images:
        raise DataError(
            f"{label} belongs to image_id {row.get('image_id')}, which is not among the images",
            do="drop the annotation, or add its image to the list of images",
        )
    if not _is_key(row.get("category_id")) or row["category_id"] not in categories:
        raise DataError(
            f"{label} has category_id {row.get('category_id')}",
            expected=f"one of {', '.join(str(key) for key in list(categories)[:10])}",
        )
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(value) for value in box):
        raise DataError(f"{label} has bbox {box}", expected="[x, y, width, height] in pixels")
    if not _finite(row.get("area", 0)):
        raise DataError(f"{label} has area {row['area']!r}", expected="a number of pixels")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def _is_key(value: Any) -> bool:
    return isinstance(value, (int, str))


def _outside(image: Mapping[str, Any], x: float, y: float, w: float, h: float) -> bool:
    width, height = float(image.get("width") or np.inf), float(image.get("height") or np.inf)
    return x + w <= 0 or y + h <= 0 or x >= width or y >= height


def _pack(rows: Sequence[tuple[list[float], int, bool, float]]) -> Boxes:
    return Boxes(
        boxes=np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        crowd=np.array([row[2] for row in rows], dtype=np.bool_),
        area=np.array([row[3] for row in rows], dtype=np.float64),
    )


def from_dict(name: str, target: Any, classes: Sequence[str]) -> Boxes:
    """Boxes given by a ``module:callable``: ``boxes`` xyxy, ``labels`` (names or indices), ``crowd``, ``area``.

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
            raise DataError(f"{name}: label {did_you_mean(str(label), classes)} is no class")
        labels.append(number)
    if len(labels) != len(boxes):
        raise DataError(f"{name} has {len(boxes)} boxes and {len(labels)} labels")
    crowd = np.asarray(target.get("crowd", np.zeros(len(boxes))), dtype=np.bool_)
    area = np.asarray(target.get("area", np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)), dtype=np.float64)
    if not len(boxes) == crowd.size == area.size:
        raise DataError(f"{name} has {len(boxes)} boxes, {crowd.size} crowd flags and {area.size} areas")
    return Boxes(boxes=boxes, labels=np.array(labels, dtype=np.int64), crowd=crowd, area=area)


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
