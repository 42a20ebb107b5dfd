"""BDD100K and Scalabel JSON: one list of frames, or a file for each frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeship.data.coco import MAX_JSON_BYTES
from edgeship.data.formats.common import Listing, forwards, known_classes, label_files
from edgeship.data.objects import LARGEST, Fixed, LabelledImage, Truth, class_position, pack, relative
from edgeship.errors import DataError
from edgeship.files import read_text

SIDES = ("x1", "y1", "x2", "y2")


def frames_in(content: Any) -> list[Mapping[str, Any]] | None:
    """The frames of a parsed JSON; None where it is not of this format."""
    rows = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    keys = ("labels", "objects")
    fits = [row for row in rows if any(key in row and isinstance(row[key], (list, type(None))) for key in keys)]
    return rows if fits else None


def read(labels: Path, listing: Listing) -> Truth:
    """Read one file, or the files of a folder. Labels without ``box2d`` (lanes, drivable areas) are left out.

    Raises:
        DataError: Not JSON of this format, a box of other values, or a class that is not one of the model's.
    """
    parsed: dict[str, list[tuple[str, tuple[float, ...], bool]]] = {}
    others = 0
    for where, name, rows in _frames(labels, listing):
        if name in parsed:
            raise DataError(f"{where}: {name} stands twice", do="keep one entry for each image")
        boxes = [row for row in rows if isinstance(row.get("box2d"), dict)]
        others += len(rows) - len(boxes)
        parsed[name] = [_box(where, row) for row in boxes]
    classes, notes = known_classes([kind for rows in parsed.values() for kind, _, _ in rows], listing.classes)
    position = {name: number for number, name in enumerate(classes)}
    images = []
    for name, objects in parsed.items():
        rows_ = [
            (box, class_position(f"{labels}: {name}", kind, position), crowd, (box[2] - box[0]) * (box[3] - box[1]))
            for kind, box, crowd in objects
            if box[2] > box[0] and box[3] > box[1]
        ]
        found = pack(rows_)
        images.append(LabelledImage(name, found.labels, Fixed(name, 0, 0, found)))
    empty = sum(box[2] <= box[0] or box[3] <= box[1] for rows in parsed.values() for _, box, _ in rows)
    notes += tuple(
        f"{count} {what} were left out of {labels}"
        for what, count in (("boxes without area", empty), ("labels without a box", others))
        if count
    )
    return Truth("BDD100K JSON", tuple(images), classes, notes)


def _frames(labels: Path, listing: Listing) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Where, image name and labels of each frame."""
    files = label_files(labels, ".json") if labels.is_dir() else {"": labels}
    for key, path in files.items():
        try:
            content = json.loads(read_text(path, MAX_JSON_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"the labels {path} cannot be read: {error}", do="fix evaluation.labels") from None
        rows = frames_in(content)
        if rows is None:
            raise DataError(f"{path} is JSON of another format", expected="BDD100K: frames with name and labels")
        for number, row in enumerate(rows):
            given = row.get("labels", row.get("objects")) or []
            name = str(row.get("name") or content.get("name", "") if isinstance(content, dict) else row.get("name", ""))
            if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
                raise DataError(f"{path}: frame {number} has labels of another form", expected="a list of objects")
            if not (name or key):
                raise DataError(f"{path}: frame {number} has no name", do="name its image")
            yield f"{path}: frame {number}", listing.image(relative(path, name or key)), given


def _box(where: str, row: Mapping[str, Any]) -> tuple[str, tuple[float, ...], bool]:
    values = [row["box2d"].get(side) for side in SIDES]
    numbers = [value for value in values if isinstance(value, (int, float)) and abs(value) < LARGEST]
    kind = row.get("category")
    if len(numbers) < 4 or not isinstance(kind, str):
        raise DataError(f"{where}: a label of category {kind!r} with box2d {row['box2d']}", expected="x1, y1, x2, y2")
    forwards(f"{where}: {kind}", numbers)
    attributes = row.get("attributes")
    crowd = isinstance(attributes, dict) and bool(attributes.get("crowd", attributes.get("Crowd", False)))
    return kind, tuple(float(value) for value in numbers), crowd
