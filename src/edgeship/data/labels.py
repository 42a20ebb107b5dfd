"""Labels of whole images: CSV or JSON, by class name or by number."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeship.data.names import unknown_names
from edgeship.errors import DataError
from edgeship.files import read_text

IMAGE_KEYS = ("image", "file", "file_name", "filename", "path", "image_path", "image_id", "name")
LABEL_KEYS = ("label", "class", "class_name", "target", "category", "class_id")
Label = int | str
MOST_CLASSES = 1_000_000
"""Where only numbers name the classes; more are not a head's outputs."""
LISTED = re.compile(r"(.+?\.\w{2,4})\s+(\S.*)")
"""An image and its label on one line: spaces belong to the image's name up to its suffix."""


def read(path: Path, names: Sequence[str] | None = None) -> list[tuple[str, Label]]:
    """Image name and label of each row.

    A CSV of any delimiter has a header with one of :data:`IMAGE_KEYS` and one of :data:`LABEL_KEYS`; digits in it are
    a number, unless ``names``, the class names, hold them as they stand (``01``). A ``.txt`` may have lines such as
    ``a.jpg 65`` without a header. JSON is ``{"a.jpg": "cat"}``, a list of objects with such keys, or one object a line
    (``.jsonl``). ImageNet's ``LOC_val_solution.csv`` is read too.

    Raises:
        DataError: Absent, malformed, without these columns, or an image stands twice.
    """
    known, suffix = frozenset(names or ()), path.suffix.lower()
    if suffix == ".json":
        rows = _json(path, _text(path))
    elif suffix == ".jsonl":
        rows = _jsonl(path)
    elif suffix == ".txt" and not _has_header(path):
        rows = _list(path, known)
    else:
        rows = _csv(path, known)
    seen: set[str] = set()
    for name, _ in rows:
        if name in seen:
            raise DataError(f"{path} labels {name} twice", do="keep one row for each image")
        seen.add(name)
    if not rows:
        raise DataError(f"{path} holds no labels", expected="one row for each image", do="fix evaluation.labels")
    return rows


def _has_header(path: Path) -> bool:
    """Whether the first line names columns."""
    first = next(iter(_text(path).splitlines()), "").lower()
    words = [word.strip() for word in first.split(_delimiter(first))]
    return bool(set(words) & set(IMAGE_KEYS)) and bool(set(words) & set(LABEL_KEYS))


def _csv(path: Path, names: frozenset[str]) -> list[tuple[str, Label]]:
    header, found = table_rows(path)
    if header[:2] == ["imageid", "predictionstring"]:  # ImageNet's LOC_val_solution.csv
        return [(row["imageid"], row["predictionstring"].split()[0]) for _, row in found if row["predictionstring"]]
    image, label = _keys(path, header)
    rows = []
    for where, row in found:
        name, value = row.get(image), row.get(label)
        if not name or not value:
            raise DataError(f"{where}: no {image if not name else label}", expected=f"{image},{label}")
        rows.append((name, _number(value, names)))
    return rows


def _number(value: str, names: frozenset[str]) -> Label:
    return int(value) if value.isdecimal() and value not in names else value


def table_rows(
    path: Path, place: str = "evaluation.labels", *, lower: bool = True
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The columns of a table, and where each row stands with its values by column.

    Columns are separated by commas, semicolons, tabs, vertical bars or, where the header has none of them, spaces.

    Args:
        path: The table.
        place: What names it in the config.
        lower: Whether names of columns are brought to lower case.

    Raises:
        DataError: It cannot be read, or a row has more values than there are columns.
    """
    lines = _text(path, place).splitlines()
    sign = _delimiter(lines[0] if lines else "")
    reader = csv.reader(lines, delimiter=sign, skipinitialspace=True)
    header = [name.strip().lower() if lower else name.strip() for name in next(reader, [])]
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}", do="keep one of them")
    rows = []
    for where, values in _one_a_line(path, reader):
        if not any(value.strip() for value in values):
            continue
        if len(values) > len(header) and any(value.strip() for value in values[len(header) :]):
            raise DataError(
                f"{where}: {len(values)} values, the first row names {len(header)} columns",
                do="quote values that hold the sign between columns",
            )
        rows.append((where, {name: value.strip() for name, value in zip(header, values, strict=False)}))
    return header, rows


def _one_a_line(path: Path, reader: Any) -> Iterator[tuple[str, list[str]]]:
    """Where and the values of each row of a CSV reader; a quoted value that goes on is not closed."""
    begun = reader.line_num
    try:
        for values in reader:
            if reader.line_num > begun + 1:
                break
            begun = reader.line_num
            yield f"{path}, line {begun}", values
        else:
            return
    except csv.Error:  # a value longer than a line may be
        pass
    raise DataError(
        f"{path}, line {begun + 1}: a quoted value does not end in its line",
        expected="one row a line",
        do='close the quotation mark; one that belongs to a value is written twice, and the value in quotes: "12"""',
    )


def _text(path: Path, place: str = "evaluation.labels") -> str:
    """Text without byte order marks, wherever they stand."""
    try:
        return read_text(path).replace("\ufeff", "")
    except (OSError, ValueError) as error:
        what = "the labels" if place == "evaluation.labels" else f"{place}:"
        raise DataError(
            f"{what} {path} cannot be read: {error}", expected="a CSV or JSON file", do=f"fix {place}"
        ) from None


def _delimiter(header: str) -> str:
    """What separates the columns: the sign that stands most often in the header; a space where none does."""
    best = max(",;\t|", key=header.count)
    return best if best in header else " "


def _list(path: Path, names: frozenset[str]) -> list[tuple[str, Label]]:
    """Lines ``a.jpg 65`` or ``a.jpg cat`` without a header, as ImageNet's ``val.txt``."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        parts = LISTED.fullmatch(line.strip())
        name, _, value = (parts[1], "", parts[2]) if parts else line.strip().partition(" ")
        if not value.strip():
            raise DataError(f"{path}, line {number}: no label", expected="an image and its label, such as a.jpg 65")
        rows.append((name, _number(value.strip(), names)))
    return rows


def jsonl_rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Where and content of each line of a file of JSON lines.

    Raises:
        DataError: It cannot be read, or a line is not a JSON object.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not valid JSON: {error}", do="correct the line") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is not a JSON object", do="correct the line")
        found.append((f"{path}, line {number}", row))
    return found


def _jsonl(path: Path) -> list[tuple[str, Label]]:
    """JSON lines, as Hugging Face's ``metadata.jsonl``."""
    rows = []
    for where, row in jsonl_rows(path):
        image, label = (next((key for key in keys if key in row), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        if image is None or label is None or row[image] in (None, ""):
            lacking, keys = ("image", IMAGE_KEYS) if image is None or not row[image] else ("label", LABEL_KEYS)
            raise DataError(f"{where}: no {lacking}", expected=f"one of {', '.join(keys)}", do="correct the line")
        rows.append((str(row[image]), _label(where, row[image], row[label])))
    return rows


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


def _label(path: object, name: object, value: Any) -> Label:
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


def class_names(values: Sequence[Label], given: tuple[str, ...] | None) -> tuple[tuple[str, ...], bool]:
    """The class names, and whether they are only numbers.

    Without given names, text labels are sorted, and numbers stand for the model's outputs 0, 1, ….
    """
    if given is not None:
        return given, False
    if all(isinstance(value, int) for value in values):
        top = max((int(value) for value in values), default=-1)
        return numbered_names(top), True
    return tuple(sorted({str(value) for value in values})), False


def numbered_names(top: int, where: object = "the labels") -> tuple[str, ...]:
    """The names ``0`` to ``top``. Raises DataError where that is no number of a class."""
    if top >= MOST_CLASSES:
        raise DataError(f"{where}: class {top}", expected=f"class numbers from 0, below {MOST_CLASSES:,}")
    return tuple(str(number) for number in range(top + 1))


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
