"""COCO JSON: images, boxes, categories."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError
from edgeship.files import read_text
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


MAX_JSON_BYTES = 2 << 30
LARGEST = 1e9
"""Coordinates and areas beyond this (and NaN) are not pixels."""


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
        DataError: Absent, malformed, an annotation of an unknown image or category, or a category that is not a class.
    """
    content = _content(path)
    categories = _categories(path, content["categories"])
    classes = tuple(names) if names is not None else tuple(categories[key] for key in sorted(categories, key=_order))
    position = {name: number for number, name in enumerate(classes)}
    images = _images(path, content["images"])
    objects: dict[Any, list[tuple[list[float], int, bool, float]]] = {key: [] for key in images}
    left_out = {"without area": 0, "wholly outside their image": 0}
    for number, annotation in enumerate(content["annotations"]):
        _check(path, number, annotation, images, categories)
        name_ = categories[_key(annotation["category_id"])]
        if name_ not in position:
            raise DataError(
                f"{path}: category {did_you_mean(name_, classes)} has annotations and is not a class of the model",
                expected=f"categories out of evaluation.classes ({', '.join(classes[:5])}, …)",
                do="rename the category, remove its annotations, or fix evaluation.classes",
            )
        x, y, w, h = (float(value) for value in annotation["bbox"])
        image_id = _key(annotation["image_id"])
        image = images[image_id]
        if w <= 0 or h <= 0:
            left_out["without area"] += 1
        elif _outside(image, x, y, w, h):
            left_out["wholly outside their image"] += 1
        else:
            area = float(annotation.get("area", w * h))
            entry = ([x, y, x + w, y + h], position[name_], bool(annotation.get("iscrowd", 0)), area)
            objects[image_id].append(entry)
    _check_pixels(path, objects)
    notes = [f"{count} boxes {what} were left out of {path.name}" for what, count in left_out.items() if count]
    seen = {label for rows in objects.values() for _, label, _, _ in rows}
    notes += [
        f"category {name!r} of {path.name} has no annotation"
        + ("" if names is not None else f"; it counts as output {place} of the model: evaluation.classes tells")
        for place, name in enumerate(classes)
        if place not in seen and name in categories.values()
    ]
    ordered = sorted(images.items(), key=lambda item: str(item[1]["file_name"]))
    found = tuple(
        CocoImage(
            str(image["file_name"]),
            int(image.get("width", 0)),
            int(image.get("height", 0)),
            _pack(objects[key]),
        )
        for key, image in ordered
    )
    return Truth(found, classes, tuple(notes))


def _check_pixels(path: Path, objects: Mapping[Any, Sequence[tuple[list[float], int, bool, float]]]) -> None:
    """Refuse boxes that are fractions of the image: all of them lie in its first pixel."""
    boxes = [row[0] for rows in objects.values() for row in rows]
    if boxes and all(0 <= value <= 1 for box in boxes for value in box):
        raise DataError(
            f"{path}: all {len(boxes)} boxes are smaller than one pixel, for instance {boxes[0]}",
            expected="[x, y, width, height] in pixels; these look like fractions of the image (0 to 1)",
            do="multiply them by the width and height of their image",
        )


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the COCO JSON {path} cannot be read: {error}", do="fix evaluation.labels") from None
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
        key = _key(row.get("id"))
        if key is None or "file_name" not in row or not whole:
            raise DataError(
                f"{path}: an image without id or file_name, or with another size than whole pixels: {str(row)[:80]}",
                expected="an id that is a whole number or a word",
            )
        if key in found:
            raise DataError(f"{path}: two images have the id {row['id']}")
        name = Path(str(row["file_name"]))
        if name.is_absolute() or ".." in name.parts:
            raise DataError(
                f"{path}: file_name {str(name)!r} leads out of the image folder",
                do="write file_name relative to evaluation.images",
            )
        found[key] = row
    files = Counter(str(row["file_name"]) for row in found.values())
    most, count = files.most_common(1)[0] if files else ("", 0)
    if count > 1:
        raise DataError(
            f"{path}: {len(found)} images are {len(files)} distinct files: {most!r} stands {count} times",
            expected="each file once: copies would count as independent images",
            do="keep one entry for each file, with all of its annotations",
        )
    return found


def _categories(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for row in rows:
        key = _key(row.get("id"))
        if key is None or not isinstance(row.get("name"), str):
            raise DataError(
                f"{path}: a category without id or name: {str(row)[:80]}",
                expected="an id that is a whole number or a word",
            )
        if key in found or row["name"] in found.values():
            raise DataError(f"{path}: the category {row['name']!r} (id {row['id']}) stands twice")
        found[key] = str(row["name"])
    return found


def _check(
    path: Path, number: int, row: Mapping[str, Any], images: Mapping[Any, Any], categories: Mapping[Any, str]
) -> None:
    label = f"{path}: annotation {row.get('id', number)}"
    if _key(row.get("image_id")) not in images:
        raise DataError(
            f"{label} belongs to image_id {row.get('image_id')}, which is not among the images",
            do="drop the annotation, or add its image to the list of images",
        )
    if _key(row.get("category_id")) not in categories:
        raise DataError(
            f"{label} has category_id {row.get('category_id')}",
            expected=f"one of {', '.join(str(key) for key in list(categories)[:10])}",
        )
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(value) for value in box):
        raise DataError(f"{label} has bbox {box}", expected="[x, y, width, height] in pixels")
    if row.get("iscrowd", 0) not in (0, 1):
        raise DataError(f"{label} has iscrowd {row['iscrowd']!r}", expected="0 or 1 as a number")
    if not _finite(row.get("area", 0)):
        raise DataError(f"{label} has area {row['area']!r}", expected="a number of pixels")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def _key(value: Any) -> int | str | None:
    """An id as one type, whoever wrote it: ``1``, ``1.0`` and ``"1"`` are 1. None: not an id."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and value.isascii() and len(value) < 18 else value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < LARGEST else None
    return value if isinstance(value, int) else None


def _order(key: int | str) -> tuple[bool, int, str]:
    """Numbers in their order, then words in theirs."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


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
            raise DataError(f"{name}: label {did_you_mean(str(label), classes)} is not a class")
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
