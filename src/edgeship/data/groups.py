"""Which images belong together: frames of one clip, pictures of one place (``evaluation.group``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgeship.config import Evaluation
from edgeship.data.coco import MAX_JSON_BYTES
from edgeship.data.formats.common import Listing
from edgeship.data.labels import IMAGE_KEYS, jsonl_rows, table_rows
from edgeship.errors import DataError
from edgeship.files import read_text

FIELD = "field:"
"""``field:video_id``: a column of the CSV, or a field of an image in the JSON, that ``evaluation.labels`` names."""


def group_names(settings: Evaluation, ids: Sequence[str]) -> list[str] | None:
    """The group of each image by its id; None where the config names none.

    Raises:
        DataError: The expression matches no part of an id, or the labels have no such field for an image.
    """
    rule = settings.group
    if rule is None:
        return None
    if rule.startswith(FIELD):
        return _by_field(settings, rule.removeprefix(FIELD).strip(), ids)
    pattern = re.compile(rule)
    found = [pattern.search(name) for name in ids]
    missing = [name for name, match in zip(ids, found, strict=True) if match is None]
    if missing:
        raise DataError(
            f"evaluation.group = {rule!r} matches no part of {len(missing)} of {len(ids)} images, such as {missing[0]}",
            expected="an expression that finds the clip in every path below evaluation.images",
            do="correct the expression, or name a field of the labels: group = 'field:clip'",
        )
    return [match[1] if match.re.groups else match[0] for match in found if match is not None]


def _by_field(settings: Evaluation, field: str, ids: Sequence[str]) -> list[str]:
    path = settings.labels
    if path is None or not path.is_file():
        raise DataError(f"evaluation.group names the field {field!r}, and evaluation.labels is not a file")
    known = _fields(path, field, Listing(path.parent, tuple(ids)))
    missing = [name for name in ids if name not in known]
    if missing:
        raise DataError(
            f"{path} has no {field!r} for {len(missing)} of {len(ids)} images, for instance {missing[0]}",
            expected=f"a value of {field!r} for every image",
            do="add it, or correct evaluation.group",
        )
    return [known[name] for name in ids]


def _fields(path: Path, field: str, listing: Listing) -> dict[str, str]:
    """Image name → value of a field."""
    found = {}
    for row in _rows(path):
        by_key = {str(key).lower(): value for key, value in row.items()}
        image = next((by_key[key] for key in IMAGE_KEYS if key in by_key), None)
        if image is not None and row.get(field) not in (None, ""):
            found[listing.image(PurePosixPath(str(image).strip()).as_posix())] = str(row[field])
    return found


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a table of any delimiter, of JSON lines, of a JSON list, or the images of a COCO JSON."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return [row for _, row in jsonl_rows(path)]
    if suffix != ".json":
        return [row for _, row in table_rows(path, lower=False)[1]]
    try:
        content = json.loads(read_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the labels {path} cannot be read: {error}", expected="a CSV or JSON file") from None
    rows = content.get("images") if isinstance(content, dict) else content
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
