"""COCO JSON: images, categories, boxes, masks and keypoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeship.data import shapes
from edgeship.data.objects import LARGEST, Fixed, LabelledImage, Truth, class_position, pack, relative
from edgeship.errors import DataError
from edgeship.files import read_text

Need = Literal["boxes", "masks", "keypoints", "corners"]
"""What a task compares of an object."""

MAX_JSON_BYTES = 2 << 30


def read(path: Path, names: Sequence[str] | None, need: Need = "boxes") -> Truth:
    """Read and check a COCO JSON.

    Boxes that reach outside their image are kept as they are, as the COCO protocol does; boxes without area and
    boxes wholly outside are left out and counted in the notes.

    Args:
        path: The file.
        names: The model's class names in the order of its outputs; default: the categories, sorted by id, without a
            category that is only the root of the others (Roboflow writes one).
        need: What an annotation must have beside its box.

    Raises:
        DataError: Absent, malformed, an annotation of an unknown image or category, or a category that is not a class.
    """
    content = _content(path)
    categories = _categories(path, content["categories"])
    root = _root(content) if names is None else None
    ordered_names = tuple(categories[key] for key in sorted(categories, key=_order) if key != root)
    classes = tuple(names) if names is not None else ordered_names
    position = {name: number for number, name in enumerate(classes)}
    images = _images(path, content["images"])
    found: dict[Any, list[_Object]] = {key: [] for key in images}
    left_out = {"without area": 0, "wholly outside their image": 0}
    for number, annotation in enumerate(content["annotations"]):
        _check(path, number, annotation, images, categories)
        label = f"{path}: annotation {annotation.get('id', number)}"
        place = class_position(label, categories[_key(annotation["category_id"])], position)
        x, y, w, h = (float(value) for value in annotation["bbox"])
        image_id = _key(annotation["image_id"])
        if w <= 0 or h <= 0:
            left_out["without area"] += 1
        elif _outside(images[image_id], x, y, w, h):
            left_out["wholly outside their image"] += 1
        else:
            row = (
                [x, y, x + w, y + h],
                place,
                bool(annotation.get("iscrowd", 0)),
                float(annotation.get("area", w * h)),
            )
            found[image_id].append(_object(label, annotation, images[image_id], row, need))
    _check_pixels(path, [item.row[0] for rows in found.values() for item in rows])
    notes = [f"{count} boxes {what} were left out of {path.name}" for what, count in left_out.items() if count]
    notes += _turned(path, content["annotations"]) if need == "boxes" else []
    if root is not None:
        notes.append(f"category {categories[root]!r} of {path.name} is only the root of the others: it is not a class")
    seen = {item.row[1] for rows in found.values() for item in rows}
    notes += [
        f"category {name!r} of {path.name} has no annotation"
        + ("" if names is not None else f"; it counts as output {place} of the model: evaluation.classes tells")
        for place, name in enumerate(classes)
        if place not in seen and name in categories.values()
    ]
    return Truth("COCO JSON", _labelled(path, images, found, need), classes, tuple(notes))


_Row = tuple[list[float], int, bool, float]


@dataclass(frozen=True)
class _Object:
    row: _Row
    shape: Any = None
    points: Any = None


def _object(label: str, annotation: Mapping[str, Any], image: Mapping[str, Any], row: _Row, need: Need) -> _Object:
    """An annotation's box with its mask or keypoints, which must be of its image."""
    shape = points = None
    if need == "masks":
        shape = shapes.coco_shape(label, annotation.get("segmentation"))
        size = [int(image.get(side) or 0) for side in ("height", "width")]
        if isinstance(shape, dict) and all(size) and shape["size"] != size:
            raise DataError(
                f"{label} has run lengths of {shape['size'][1]}×{shape['size'][0]} pixels, {image['file_name']} is "
                f"{size[1]}×{size[0]}",
                expected="[height, width] of the image",
                do="bring the masks to the size of the image",
            )
    elif need == "keypoints":
        points = shapes.coco_points(label, annotation.get("keypoints"))
        _require_inside(label, image, points)
    return _Object(row, shape, points)


def _labelled(
    path: Path, images: Mapping[Any, Mapping[str, Any]], found: Mapping[Any, Sequence[_Object]], need: Need
) -> tuple[LabelledImage, ...]:
    """The images by name, with their objects."""
    made = []
    joints = {item.points.shape for rows in found.values() for item in rows if item.points is not None}
    if len(joints) > 1:
        numbers = ", ".join(str(shape[0]) for shape in sorted(joints))
        raise DataError(f"{path}: objects have {numbers} keypoints", expected="as many for every object")
    count = next(iter(joints))[0] if joints else 0
    for key, image in sorted(images.items(), key=lambda item: str(item[1]["file_name"])):
        name, rows = str(image["file_name"]), found[key]
        objects = pack([item.row for item in rows])
        if need == "masks":
            objects = replace(objects, shapes=tuple(item.shape for item in rows))
        elif need == "keypoints":
            points = np.array([item.points for item in rows], dtype=np.float64).reshape(len(rows), count, 3)
            objects = replace(objects, keypoints=points)
        size = int(image.get("width", 0)), int(image.get("height", 0))
        made.append(LabelledImage(name, objects.labels, Fixed(name, *size, objects)))
    return tuple(made)


def _root(content: Mapping[str, Any]) -> int | str | None:
    """The id of the category that all others name as their supercategory and that has no annotation itself."""
    rows = content["categories"]
    parents = {row.get("supercategory") for row in rows}
    roots = [row for row in rows if row.get("name") in parents and row.get("supercategory") in (None, "", "none")]
    if len(roots) != 1 or len(rows) < 2:
        return None
    key = _key(roots[0].get("id"))
    others = all(row.get("supercategory") == roots[0]["name"] for row in rows if row is not roots[0])
    used = any(_key(row.get("category_id")) == key for row in content["annotations"])
    return key if others and not used else None


def _turned(path: Path, annotations: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is said of boxes that CVAT exported upright and that stand at an angle."""
    found = [
        (row.get("id"), row["attributes"]["rotation"])
        for row in annotations
        if isinstance(row.get("attributes"), dict) and row["attributes"].get("rotation") not in (None, 0)
    ]
    if not found:
        return []
    return [
        f"{len(found)} boxes of {path.name} are turned (attributes.rotation), for instance annotation {found[0][0]} by "
        f"{str(found[0][1])[:10]}°: they are compared upright, as their bbox says"
    ]


def _require_inside(label: str, image: Mapping[str, Any], points: Any) -> None:
    """Refuse labelled keypoints that lie more than a pixel outside the image; nothing where its size is not told."""
    size = np.array([image.get("width") or np.inf, image.get("height") or np.inf])
    labelled = points[points[:, 2] > 0, :2]
    away = ((labelled < -1) | (labelled > size + 1)).any(axis=1)
    if away.any():
        x, y = labelled[away][0].tolist()
        raise DataError(
            f"{label} has a keypoint at ({x:g}, {y:g}), outside {image['file_name']} of {size[0]:g}×{size[1]:g}",
            expected="labelled keypoints inside the image",
            do="correct it, or set its visibility to 0",
        )


def _check_pixels(path: Path, boxes: Sequence[list[float]]) -> None:
    """Refuse boxes that are fractions of the image: all of them lie in its first pixel."""
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
            f"{path} is not COCO JSON",
            expected="an object with lists of images, annotations, categories",
            do="name the annotations that belong to the images in evaluation.labels",
        )
    return content


def _images(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        whole = all(isinstance(_key(row.get(key, 0)), int) for key in ("width", "height"))
        key = _key(row.get("id"))
        if key is None or row.get("file_name") in (None, "") or not whole:
            raise DataError(
                f"{path}: an image without id or file_name, or with another size than whole pixels: {str(row)[:80]}",
                expected="an id that is a whole number or a word, a file_name, width and height in whole pixels",
            )
        if key in found:
            raise DataError(f"{path}: two images have the id {row['id']}")
        relative(path, str(row["file_name"]))
        found[key] = {**row, **{side: _key(row[side]) for side in ("width", "height") if side in row}}
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
