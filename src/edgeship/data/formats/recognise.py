"""Which label format lies there: told by what the files hold, never by their place alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeship.data import coco
from edgeship.data.coco import MAX_JSON_BYTES
from edgeship.data.formats import bdd, dota, kitti, tables, voc, yolo
from edgeship.data.formats.common import Listing, label_files, lines_of
from edgeship.data.labels import table_rows
from edgeship.data.objects import Truth
from edgeship.errors import DataError
from edgeship.files import read_text

FORMATS = (
    "a COCO JSON, YOLO, KITTI or DOTA text files, Pascal VOC XML, a BDD100K JSON, a CSV of boxes, or Hugging Face "
    "metadata"
)
PEEKED = 50
"""Label files looked at until one has a line."""


def read_objects(labels: Path, listing: Listing) -> Truth:
    """Labelled objects in whichever format lies at ``labels``, a file or a folder.

    Raises:
        DataError: Absent, of no known format, of several at once, or without what the task needs.
    """
    if labels.is_dir():
        kind, reader = _folder(labels)
    elif labels.is_file():
        kind, reader = _file(labels)
    else:
        raise DataError(f"the labels {labels} do not exist", expected=FORMATS, do="fix evaluation.labels")
    able = {"boxes": (kind,), "corners": ("YOLO text files", "DOTA")}.get(
        listing.need, ("COCO JSON", "YOLO text files")
    )
    if kind not in able:
        raise DataError(
            f"{labels} is {kind}, which has no {listing.need}",
            expected=" or ".join(able),
            do="fix evaluation.labels",
        )
    return reader(labels, listing)


Reader = Callable[[Path, Listing], Truth]


def _coco(path: Path, listing: Listing) -> Truth:
    return coco.read(path, listing.classes, listing.need)


def _file(path: Path) -> tuple[str, Reader]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = _json(path)
        if bdd.frames_in(content) is not None:
            return "BDD100K JSON", bdd.read
        return "COCO JSON", _coco
    if suffix == ".jsonl":
        return "Hugging Face metadata", tables.read_metadata
    if suffix in (".csv", ".tsv", ".txt") and tables.has_boxes(table_rows(path)[0]):
        return "a CSV of boxes", tables.read_csv
    raise DataError(f"{path} holds no boxes of a known format", expected=FORMATS, do="fix evaluation.labels")


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the labels {path} cannot be read: {error}", do="fix evaluation.labels") from None


def _folder(folder: Path) -> tuple[str, Reader]:
    found: list[tuple[str, Reader]] = []
    text = label_files(folder, ".txt", yolo.NO_LABELS)
    if text:
        found.append(_text(list(text.values())))
    if label_files(folder, ".xml"):
        found.append(("Pascal VOC", voc.read))
    whole = label_files(folder, ".json")
    if whole and not found:
        found.append(_many_json(folder, list(whole.values())))
    if len(found) == 1:
        return found[0]
    inside = sorted(path.name for path in folder.iterdir())[:5]
    said = " and ".join(kind for kind, _ in found) if found else f"no labels, but {', '.join(inside) or 'nothing'}"
    raise DataError(
        f"{folder} holds {said}",
        expected="labels of one format with the images' names: .txt (YOLO, KITTI, DOTA), .xml (Pascal VOC) or .json "
        "(BDD100K)",
        do="name a folder that holds one of them in evaluation.labels",
    )


def _many_json(folder: Path, files: list[Path]) -> tuple[str, Reader]:
    content = _json(files[0])
    if bdd.frames_in(content) is not None:
        return "BDD100K JSON", bdd.read
    if isinstance(content, dict) and "annotations" in content:
        names = ", ".join(path.name for path in files[:3])
        raise DataError(f"{folder} holds COCO files: {names}", do="name one of them in evaluation.labels")
    raise DataError(f"{files[0]} is JSON of another format", expected=FORMATS, do="fix evaluation.labels")


def _text(files: list[Path]) -> tuple[str, Reader]:
    """YOLO, KITTI or DOTA, by the first line that there is: KITTI's begins with a word, DOTA's has one after eight
    numbers."""
    for path in files[:PEEKED]:
        for _, words in lines_of(path):
            if len(words) in kitti.FIELDS and not words[0].replace(".", "", 1).isdecimal():
                return "KITTI", kitti.read
            if dota.looks_so(words):
                return "DOTA", dota.read
            return "YOLO text files", yolo.read
    return "YOLO text files", yolo.read
