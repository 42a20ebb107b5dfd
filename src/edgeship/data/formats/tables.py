"""Boxes in tables: a CSV with a row for each object, and Hugging Face's ``metadata.jsonl`` or ``metadata.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from edgeship.data.formats.common import Listing, finite, forwards, known_classes
from edgeship.data.labels import IMAGE_KEYS, LABEL_KEYS, jsonl_rows, numbered_names, table_rows
from edgeship.data.objects import LARGEST, Fixed, LabelledImage, Truth, class_position, pack, relative
from edgeship.errors import DataError

SIDES = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
"""Names of the columns of a box."""

Row = tuple[str, str, Any, tuple[float, float, float, float]]
"""Where, image, class, box."""


def has_boxes(header: Sequence[str]) -> bool:
    """Whether a table's columns hold boxes."""
    return any(set(sides) <= set(header) for sides in SIDES)


def read_csv(path: Path, listing: Listing) -> Truth:
    """Read a table of boxes in pixels. A row without a box names an image without objects.

    Raises:
        DataError: Columns that are missing, a box of other values, or a class that is not one of the model's.
    """
    header, rows = table_rows(path)
    image = next((key for key in IMAGE_KEYS if key in header), None)
    label = next((key for key in LABEL_KEYS if key in header), None)
    sides = next((sides for sides in SIDES if set(sides) <= set(header)), None)
    if image is None or label is None or sides is None:
        raise DataError(
            f"{path} has the columns {', '.join(header) or 'none'}",
            expected="image,xmin,ymin,xmax,ymax,label",
            do="name the columns in the first row",
        )
    found: list[Row] = []
    names: list[str] = []
    for where, row in rows:
        name = listing.image(relative(where, row.get(image) or ""))
        names.append(name)
        values = [row.get(side) or "" for side in sides]
        if any(values):
            x1, y1, x2, y2 = finite(where, values)
            forwards(where, (x1, y1, x2, y2))
            kind = row.get(label) or ""
            if not kind:
                raise DataError(f"{where}: a box without {label}", do="correct the row")
            found.append((where, name, kind, (x1, y1, x2, y2)))
    return _truth("a CSV of boxes", path, names, found, listing)


def read_metadata(path: Path, listing: Listing) -> Truth:
    """Read ``metadata.jsonl``: ``file_name`` and ``objects`` with ``bbox`` (x, y, width, height) and ``categories``.

    Raises:
        DataError: Not JSON, another form, or a class that is not one of the model's.
    """
    found: list[Row] = []
    names: dict[str, None] = {}
    for where, row in jsonl_rows(path):
        objects = row.get("objects")
        if not isinstance(row.get("file_name"), str) or not isinstance(objects, dict):
            raise DataError(f"{where}: no file_name or no objects", expected='{"file_name": "a.jpg", "objects": {…}}')
        boxes = objects.get("bbox", objects.get("bboxes"))
        kinds = next((objects[key] for key in ("categories", "category", "label", "labels") if key in objects), None)
        if not isinstance(boxes, list) or not isinstance(kinds, list) or len(boxes) != len(kinds):
            raise DataError(f"{where}: objects without as many categories as bbox", do="correct the line")
        name = listing.image(relative(where, row["file_name"]))
        if name in names:
            raise DataError(f"{where}: {name} stands twice", do="keep one line for each image, with all of its objects")
        names[name] = None
        for box, kind in zip(boxes, kinds, strict=True):
            fit = isinstance(box, list) and len(box) == 4
            if not fit or not all(isinstance(value, (int, float)) and abs(value) < LARGEST for value in box):
                raise DataError(f"{where}: bbox {box}", expected="[x, y, width, height] in pixels")
            x, y, w, h = (float(value) for value in box)
            forwards(where, (x, y, x + w, y + h))
            found.append((where, name, _kind(where, kind), (x, y, x + w, y + h)))
    return _truth("Hugging Face metadata", path, tuple(names), found, listing)


def _kind(where: str, kind: Any) -> int | str:
    """A class by its name or its number."""
    whole = int(kind) if isinstance(kind, float) and kind.is_integer() else kind
    named = isinstance(whole, str) and whole.strip()
    if not named and (not isinstance(whole, int) or isinstance(whole, bool) or whole < 0):
        raise DataError(f"{where}: the category {kind!r}", expected="a class name, or its number from 0")
    return cast("int | str", whole)


def _truth(kind: str, path: Path, names: Sequence[str], found: Sequence[Row], listing: Listing) -> Truth:
    """Images and objects of a table. Class numbers are positions, or the names that the listing gives for numbers."""
    table = listing.numbers or listing.classes
    named: list[tuple[Row, str]] = []
    for row in found:
        text = str(row[2]).strip()
        plain = text.isdecimal() and (table is None or text not in table)
        if plain and table is not None and int(text) >= len(table):
            raise DataError(f"{row[0]}: class {text}", expected=f"0..{len(table) - 1}, or a class name")
        named.append((row, table[int(text)] if plain and table is not None else text))
    numbered = table is None and bool(named) and all(name.isdecimal() for _, name in named)
    if numbered:
        classes: tuple[str, ...] = numbered_names(max(int(name) for _, name in named), path)
        notes: tuple[str, ...] = ()
    else:
        classes, notes = known_classes([name for _, name in named], listing.classes)
    position = {name: number for number, name in enumerate(classes)}
    rows: dict[str, list[tuple[Sequence[float], int, bool, float]]] = {name: [] for name in names}
    empty = 0
    for (where, image, _, box), name in named:
        place = class_position(where, name, position)
        area = (box[2] - box[0]) * (box[3] - box[1])
        if box[2] <= box[0] or box[3] <= box[1]:
            empty += 1
        else:
            rows[image].append((box, place, False, area))
    if empty:
        notes = (*notes, f"{empty} boxes without area were left out of {path.name}")
    images = tuple(
        LabelledImage(name, (objects := pack(rows[name])).labels, Fixed(name, 0, 0, objects)) for name in sorted(rows)
    )
    return Truth(kind, images, classes, notes, numbered)
