"""Labels of whole images: CSV or JSON, by class name or by number."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeship.data.names import unknown_names
from edgeship.errors import DataError
from edgeship.files import read_text

IMAGE_KEYS = ("image", "file", "file_name", "filename", "path", "name")
LABEL_KEYS = ("label", "class", "class_name", "target", "category")
Label = int | str


def read(path: Path, names: Sequence[str] | None = None) -> list[tuple[str, Label]]:
    """Image name and label of each row.

    CSV (separated by commas, semicolons or tabs) has a header with one of :data:`IMAGE_KEYS` and one of
    :data:`LABEL_KEYS`; digits in it are a number, unless ``names``, the class names, hold them as they stand (``01``).
    JSON is ``{"a.jpg": "cat"}`` or a list of objects with such keys.

    Raises:
        DataError: Absent, malformed, without these columns, or an image stands twice.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the labels {path} cannot be read: {error}", expected="a CSV or JSON file", do="fix evaluation.labels"
        ) from None
    rows = _json(path, text) if path.suffix.lower() == ".json" else _csv(path, text, frozenset(names or ()))
    seen: set[str] = set()
    for name, _ in rows:
        if name in seen:
            raise DataError(f"{path} labels {name} twice", do="keep one row for each image")
        seen.add(name)
    if not rows:
        raise DataError(f"{path} holds no labels", expected="one row for each image", do="fix evaluation.labels")
    return rows


def _csv(path: Path, text: str, names: frozenset[str]) -> list[tuple[str, Label]]:
    lines = text.splitlines()
    reader = csv.DictReader(lines, delimiter=_delimiter(lines[0] if lines else ""))
    header = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = header
    image, label = _keys(path, header)
    rows = []
    for number, row in enumerate(reader, start=2):
        name, value = row.get(image), row.get(label)
        if not name or value is None or value.strip() == "":
            raise DataError(f"{path}, line {number}: no {image if not name else label}", expected=f"{image},{label}")
        value = value.strip()
        rows.append((name.strip(), int(value) if value.isdecimal() and value not in names else value))
    return rows


def _delimiter(header: str) -> str:
    """What separates the columns: the sign out of comma, semicolon and tab that stands most often in the header."""
    return max(",;\t", key=header.count)


def _json(path: Path, text: str) -> list[tuple[str, Label]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}", do="write the labels again as JSON or CSV") from None
    if isinstance(content, dict) and "annotations" in content and "images" in content:
        raise DataError(f"{path} is a COCO JSON of boxes", do='set evaluation.task = "detection"')
    if isinstance(content, dict):
        return [(str(name), _label(path, name, value)) for name, value in content.items()]
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        image, label = _keys(path, list(content[0]))
        for number, row in enumerate(content):
            if image not in row or label not in row:
                raise DataError(f"{path}: row {number} lacks {image!r} or {label!r}")
        return [(str(row[image]), _label(path, row[image], row[label])) for row in content]
    raise DataError(f"{path} is JSON of another shape", expected='{"a.jpg": "cat"} or [{"image": …, "label": …}]')


def _label(path: Path, name: object, value: Any) -> Label:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataError(f"{path}: the label of {name} is {value!r}", expected="a class name or a number")
    return value


def _keys(path: Path, header: Sequence[str]) -> tuple[str, str]:
    image = next((key for key in IMAGE_KEYS if key in header), None)
    label = next((key for key in LABEL_KEYS if key in header), None)
    if image is None or label is None:
        raise DataError(
            f"{path} has the columns {', '.join(header) or 'none'}",
            expected=f"one of {', '.join(IMAGE_KEYS)} and one of {', '.join(LABEL_KEYS)}",
            do="name the columns in the first row, for instance image,label",
        )
    return image, label


def find_images(folder: Path, listing: Sequence[tuple[str, Label]], where: Path) -> list[tuple[Path, Label]]:
    """The files that a listing names, below ``folder``.

    Raises:
        DataError: The folder or some of the files are absent, or a name leads out of the folder.
    """
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist", do="name the folder in evaluation.images")
    missing = [name for name, _ in listing if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{where} labels images that are not in {folder}: {', '.join(missing[:5])}{more}",
            do="fix evaluation.images, or drop these rows",
        )
    root = folder.resolve()
    outside = [name for name, _ in listing if ".." in Path(name).parts or Path(name).is_absolute()]
    if outside:
        raise DataError(f"{where} names {outside[0]}, which is not below {root}", expected="paths below the folder")
    return [(folder / name, label) for name, label in listing]


def class_names(values: Sequence[Label], given: tuple[str, ...] | None) -> tuple[tuple[str, ...], bool]:
    """The class names, and whether they are only numbers.

    Without given names, text labels are sorted, and numbers stand for the model's outputs 0, 1, ….
    """
    if given is not None:
        return given, False
    if all(isinstance(value, int) for value in values):
        top = max((int(value) for value in values), default=-1)
        return tuple(str(number) for number in range(top + 1)), True
    return tuple(sorted({str(value) for value in values})), False


def to_indices(rows: Sequence[tuple[str, Any]], known: Sequence[str], where: object) -> list[int]:
    """Labels as positions in ``known``. A name that is itself a number counts as a name.

    Raises:
        DataError: Unknown names (with the nearest known one), or numbers out of range.
    """
    position = {name: number for number, name in enumerate(known)}
    stray = unknown_names(dict.fromkeys(v for _, v in rows if isinstance(v, str)), known)
    if stray:
        raise DataError(f"{where}: labels that are not classes: {stray}", do="fix the labels or evaluation.classes")
    found = []
    for name, value in rows:
        number = position[value] if isinstance(value, str) else position.get(str(value), int(value))
        if not 0 <= number < len(known):
            raise DataError(f"{where}: {name} has label {value}", expected=f"0..{len(known) - 1}, or a class name")
        found.append(number)
    return found
