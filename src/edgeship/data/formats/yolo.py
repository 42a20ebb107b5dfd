"""YOLO text files: a file for each image, a line for each object, coordinates as fractions of the image.

========  ==========================================================================
boxes     ``class cx cy w h``
polygons  ``class x1 y1 x2 y2 x3 y3 …``, at least three points; its box is what surrounds it
pose      ``class cx cy w h`` and the keypoints, ``x y`` or ``x y visibility`` each
rotated   ``class x1 y1 x2 y2 x3 y3 x4 y4`` (Ultralytics' OBB)
========  ==========================================================================

As in Ultralytics, an image without a file is one without objects, and of equal lines one counts.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data import quads, shapes
from edgeship.data.formats.common import Listing, finite, label_files, lines_of, stem
from edgeship.data.formats.yaml_file import read_yaml
from edgeship.data.labels import numbered_names
from edgeship.data.objects import Boxes, LabelledImage, Truth, class_position
from edgeship.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeship.data.objects import Array
    from edgeship.data.preprocess import Geometry

NO_LABELS = ("classes.txt", "obj.names", "README.txt", "readme.txt", "train.txt", "val.txt", "test.txt")
"""Text files that lie among labels and hold none."""
ROUNDING = 0.01
"""Coordinates may lie so far outside 0 to 1: writers round."""


@dataclass(frozen=True)
class _Row:
    """One object in fractions of the image."""

    label: int
    box: tuple[float, float, float, float]
    polygon: Array | None = None
    points: Array | None = None


@dataclass(frozen=True)
class _Read:
    """The objects of an image, in its pixels once its size is known."""

    rows: tuple[_Row, ...]

    def __call__(self, geometry: Geometry) -> Boxes:
        size = np.array([geometry.width, geometry.height], dtype=np.float64)
        boxes = np.array([row.box for row in self.rows], dtype=np.float64).reshape(-1, 4) * np.tile(size, 2)
        outlines = [None if row.polygon is None else row.polygon * size for row in self.rows]
        area = np.array(
            [
                (box[2] - box[0]) * (box[3] - box[1]) if line is None else shapes.polygon_area(line)
                for box, line in zip(boxes, outlines, strict=True)
            ],
            dtype=np.float64,
        )
        points = [row.points for row in self.rows if row.points is not None]
        square = all(line is not None and len(line) == 4 for line in outlines)
        return Boxes(
            boxes=boxes,
            labels=np.array([row.label for row in self.rows], dtype=np.int64),
            crowd=np.zeros(len(self.rows), dtype=np.bool_),
            area=area,
            shapes=tuple(None if line is None else [line] for line in outlines),
            keypoints=np.stack(points) * [*size, 1.0] if points else None,
            corners=np.array(outlines, dtype=np.float64).reshape(-1, 4, 2) if square else None,
        )


def read(labels: Path, listing: Listing) -> Truth:
    """Read the label files of a folder.

    Raises:
        DataError: A line of another form, a coordinate that is not a fraction, a class without a name, or no label
            file for any image.
    """
    files = label_files(labels, ".txt", NO_LABELS)
    left_out: Counter[str] = Counter()
    rows = {key: _rows(path, listing, left_out) for key, path in files.items()}
    places = [(name, stem(name)) for name in listing.names]
    paired = [key for _, key in places if key in rows]
    if listing.names and not paired:
        raise DataError(
            f"none of the {len(listing.names)} images in {listing.folder} has a label file in {labels}",
            expected=f"{next(iter(listing.by_stem))}.txt for {listing.names[0]}",
            do="fix evaluation.labels: the folder of .txt files with the names of the images",
        )
    used = {row.label for found in rows.values() for row in found}
    classes, numbered, place = _classes(labels, listing, used)
    images = []
    places += [(key, key) for key in rows if key not in listing.by_stem]
    for name, key in sorted(places):
        found = tuple(_placed(row, place) for row in rows.get(key, ()))
        images.append(LabelledImage(name, np.array([row.label for row in found], dtype=np.int64), _Read(found)))
    notes = tuple(f"{count} {what} were left out of {labels}" for what, count in left_out.items())
    background = len(listing.names) - len(paired)
    return Truth("YOLO text files", tuple(images), classes, notes, numbered, background)


def _placed(row: _Row, place: Mapping[int, int]) -> _Row:
    return _Row(place[row.label], row.box, row.polygon, row.points)


def _classes(labels: Path, listing: Listing, used: set[int]) -> tuple[tuple[str, ...], bool, dict[int, int]]:
    """Class names, whether they are only numbers, and number in the labels → position."""
    top = max(used, default=-1)
    names = listing.numbers or listing.classes
    if names is None:
        return numbered_names(top, labels), True, {number: number for number in used}
    if top >= len(names):
        raise DataError(
            f"{labels} has an object of class {top}, and {len(names)} names were given",
            expected="a name for each class number, from 0",
            do="fix the names in data.yaml, or evaluation.classes",
        )
    classes = listing.classes or names
    known = {name: number for number, name in enumerate(classes)}
    return classes, False, {number: class_position(str(labels), names[number], known) for number in used}


def _rows(path: Path, listing: Listing, left_out: Counter[str]) -> list[_Row]:
    found: dict[tuple[float, ...], _Row] = {}
    for where, words in lines_of(path):
        row = _row(where, words, listing)
        values = tuple(map(float, words))
        if values in found:
            left_out["repeated lines"] += 1
        elif row.box[2] <= row.box[0] or row.box[3] <= row.box[1] or _is_line(row, listing):
            left_out["objects without area"] += 1
        else:
            found[values] = row
    return list(found.values())


def _is_line(row: _Row, listing: Listing) -> bool:
    """Whether four corners lie on one line: a rotated box without area."""
    return listing.need == "corners" and row.polygon is not None and quads.flat(row.polygon)


def _row(where: str, words: Sequence[str], listing: Listing) -> _Row:
    if words[0][:1].isalpha() and words[0].lower() not in ("nan", "inf", "infinity"):
        raise DataError(
            f"{where}: the line begins with {words[0]!r}",
            expected="the number of a class, as in YOLO text; KITTI has 15 words a line, DOTA eight numbers, a class "
            "of one word and a flag",
            do="write the number of the class, or correct the line",
        )
    values = finite(where, words)
    label, rest = values[0], np.array(values[1:], dtype=np.float64)
    if label < 0 or label != int(label):
        raise DataError(f"{where}: the class is {words[0]!r}", expected="a number from 0", do="correct the line")
    if len(rest) == 5 and listing.need == "corners":
        raise DataError(
            f"{where}: six numbers",
            expected="class and four corners, x y each; a centre, a size and an angle are not read: angles are "
            "counted in several ways",
            do="write the corners, as Ultralytics' OBB labels have them",
        )
    if len(rest) == 5:
        raise DataError(
            f"{where}: six numbers",
            expected="class cx cy w h; six look like predictions with a confidence",
            do="name the folder of labels, not of predictions",
        )
    if len(rest) < 4 or (listing.need == "corners" and len(rest) != 8):
        raise DataError(
            f"{where}: {len(values)} numbers",
            expected="class and four corners"
            if listing.need == "corners"
            else "class cx cy w h, or class and a polygon",
            do="correct the line",
        )
    if len(rest) == 4:
        if listing.need in ("masks", "keypoints"):
            what = "its polygon" if listing.need == "masks" else "its keypoints"
            raise DataError(
                f"{where}: a box alone", expected=f"an object with {what}", do="label it, or set another task"
            )
        return _Row(int(label), _box(where, rest))
    if _is_pose(rest, listing):
        return _Row(int(label), _box(where, rest[:4]), points=_points(where, rest[4:], listing))
    line = shapes.polygon(where, rest)
    _require_fractions(where, rest)
    if listing.need == "corners" and not quads.flat(line) and not quads.convex(line[None])[0]:
        raise DataError(
            f"{where}: the corners cross, or bend inwards",
            expected="four corners one after the other around the box",
            do="correct the line",
        )
    return _Row(int(label), shapes.bounds([line]), polygon=line)


def _box(where: str, values: Array) -> tuple[float, float, float, float]:
    _require_fractions(where, values)
    x, y, w, h = (float(value) for value in values)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _is_pose(rest: Array, listing: Listing) -> bool:
    """Whether a line of more than a box is a box with keypoints, rather than a polygon."""
    if listing.joints is not None and listing.need != "masks":
        return len(rest) == 4 + listing.joints[0] * listing.joints[1]
    return listing.need == "keypoints" or (listing.need == "boxes" and len(rest) % 2 == 1)


def _points(where: str, values: Array, listing: Listing) -> Array:
    count, each = listing.joints or (len(values) // 3, 3)
    if len(values) != count * each:
        raise DataError(
            f"{where}: {len(values)} numbers after the box",
            expected=f"{count} keypoints of {each} numbers"
            if listing.joints
            else "x, y and visibility of each keypoint",
            do="correct the line, or give kpt_shape in data.yaml",
        )
    made = values.reshape(count, each)
    if each == 2:
        made = np.concatenate([made, np.where((made == 0).all(axis=1), 0.0, 2.0)[:, None]], axis=1)
    seen = made[:, 2] > 0
    _require_fractions(where, made[seen, :2].ravel())
    if not np.isin(made[:, 2], (0, 1, 2)).all():
        raise DataError(f"{where}: a keypoint of another visibility than 0, 1 or 2", do="correct the line")
    return made


def _require_fractions(where: str, values: Array) -> None:
    if values.size and (values.min() < -ROUNDING or values.max() > 1 + ROUNDING):
        far = float(values.max() if values.max() > 1 + ROUNDING else values.min())
        raise DataError(
            f"{where}: the coordinate {far:g}",
            expected="fractions of the image, 0 to 1",
            do="divide x by the image's width and y by its height",
        )


def read_names(path: Path) -> dict[str, Any]:
    """``names`` (a tuple of class names), ``joints`` and ``val`` of a ``data.yaml``, as far as it has them.

    Raises:
        DataError: It is not YAML, or its names are neither a list nor numbered from 0.
        MissingExtra: PyYAML is not installed.
    """
    content = read_yaml(path)
    names = content.get("names")
    if isinstance(names, dict):
        numbers = {int(key): value for key, value in names.items() if str(key).isdecimal()}
        names = [numbers[number] for number in sorted(numbers)] if sorted(numbers) == list(range(len(names))) else None
    if not isinstance(names, list) or not names:
        raise DataError(
            f"{path} has no usable names",
            expected="names: [person, car] or names: {0: person, 1: car}",
            do="fix the file",
        )
    strange = [name for name in names if not isinstance(name, (str, int, float)) or isinstance(name, bool)]
    if strange:
        raise DataError(
            f"{path} has the class name {reprlib.repr(strange[0])[:80]}",
            expected="words or numbers; YAML reads some words, such as no and null, as something else",
            do="write the name in quotes: 'no'",
        )
    count = content.get("nc")
    if isinstance(count, int) and count != len(names):
        raise DataError(f"{path} says nc: {count} and gives {len(names)} names", do="fix the file")
    found: dict[str, Any] = {"names": tuple(str(name) for name in names), "root": content.get("path")}
    found |= {"joints": _joints(path, content.get("kpt_shape")), "val": content.get("val")}
    return found


def _joints(path: Path, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    whole = isinstance(value, list) and len(value) == 2 and all(isinstance(item, int) for item in value)
    if not whole or value[0] < 1 or value[1] not in (2, 3):
        expected = "[keypoints, 2] or [keypoints, 3]"
        raise DataError(f"{path} says kpt_shape: {reprlib.repr(value)[:80]}", expected=expected, do="fix the file")
    return value[0], value[1]
