"""Labels for a task of one's own, passed as they are.

==============================  =====================================================================================
a CSV with columns              the row's values by column; with two columns, the image and one more, that one's value
JSON ``{"a.jpg": …}``           the value
JSON or JSON lines of objects   the object that names the image
a folder                        the path of the file with the image's name, whatever its suffix
none                            None
==============================  =====================================================================================
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeship.config import Evaluation
from edgeship.data.dataset import Counts, Dataset, require_present
from edgeship.data.formats.common import Listing, stem, text_of
from edgeship.data.frames import image_files
from edgeship.data.labels import IMAGE_KEYS, jsonl_rows, table_rows
from edgeship.data.loader import Item
from edgeship.data.objects import relative
from edgeship.errors import DataError
from edgeship.files import walk


def open_own(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """The images of a folder, each with what the labels say of it.

    Raises:
        DataError: Labels that name no image, name absent ones beyond ``allow_missing``, or are of another form.
    """
    assert settings.images is not None
    folder = settings.images
    there = {path.relative_to(folder).as_posix(): path for path in image_files(folder)}
    if settings.labels is None:
        items = tuple(Item(name, path) for name, path in there.items())
        return Dataset(settings.task, items, names or (), counts=Counts("no labels", len(items)))
    targets = read(settings.labels, Listing(folder, tuple(there)))
    missing = [name for name in targets if name not in there]
    require_present(missing, settings.labels, folder, settings.allow_missing)
    items = tuple(Item(name, path, _Given(targets[name])) for name, path in there.items() if name in targets)
    left = len(there) - len(items)
    kind = "a folder of labels" if settings.labels.is_dir() else f"labels of {settings.labels.name}"
    counts = Counts(kind, len(items), unlabelled=left, missing=len(missing))
    return Dataset(settings.task, items, names or (), counts=counts)


class _Given:
    """A target that is what it is, even where it could be called."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __call__(self, _geometry: object) -> Any:
        return self._target


def read(labels: Path, listing: Listing) -> dict[str, Any]:
    """Image name → target. Raises DataError as :func:`open_own` does."""
    if labels.is_dir():
        found: dict[str, Any] = {}
        for path in walk(labels):
            name = stem(path.relative_to(labels).as_posix())
            if name in listing.by_stem and listing.by_stem[name] in found:
                raise DataError(f"{labels} has two labels for {listing.by_stem[name]}", do="keep one of them")
            if name in listing.by_stem:
                found[listing.by_stem[name]] = path
        return found
    if not labels.is_file():
        raise DataError(f"the labels {labels} do not exist", do="fix evaluation.labels")
    suffix = labels.suffix.lower()
    rows = _json(labels) if suffix == ".json" else jsonl_rows(labels) if suffix == ".jsonl" else None
    if isinstance(rows, dict):
        return {listing.image(relative(labels, str(name))): value for name, value in rows.items()}
    return _by_image(labels, rows, listing)


def _json(path: Path) -> Any:
    try:
        content = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}", do="fix evaluation.labels") from None
    if isinstance(content, dict):
        return content
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path} is JSON of another form", expected='{"a.jpg": …} or a list of objects')
    return [(f"{path}: row {number}", row) for number, row in enumerate(content)]


def _by_image(path: Path, rows: Any, listing: Listing) -> dict[str, Any]:
    header: list[str] = []
    if rows is None:
        header, rows = table_rows(path)
    found: dict[str, Any] = {}
    for where, row in rows:
        key = next((key for key in IMAGE_KEYS if key in row), None)
        if key is None or not row[key]:
            raise DataError(f"{where}: no image", expected=f"one of {', '.join(IMAGE_KEYS)}", do="name the image")
        name = listing.image(relative(where, str(row[key])))
        if name in found:
            raise DataError(f"{where}: {name} stands twice", do="keep one row for each image")
        others = [column for column in header if column != key]
        found[name] = row.get(others[0], "") if len(others) == 1 else dict(row)
    return found
