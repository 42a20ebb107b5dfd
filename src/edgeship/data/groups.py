"""Which images belong together: frames of one clip, pictures of one place (``evaluation.group``)."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgeship.config import Evaluation
from edgeship.data.labels import IMAGE_KEYS
from edgeship.errors import DataError

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
    known = _fields(path, field)
    missing = [name for name in ids if name not in known]
    if missing:
        raise DataError(
            f"{path} has no {field!r} for {len(missing)} of {len(ids)} images, for instance {missing[0]}",
            expected=f"a value of {field!r} for every image",
            do="add it, or correct evaluation.group",
        )
    return [known[name] for name in ids]


def _fields(path: Path, field: str) -> dict[str, str]:
    """Image name → value of a field."""
    rows: Sequence[Mapping[str, Any]]
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            rows = content.get("images", []) if isinstance(content, dict) else content
        else:
            rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"the labels {path} cannot be read: {error}", expected="a CSV or JSON file") from None
    found = {}
    for row in rows:
        values = {str(key).strip(): value for key, value in row.items()} if isinstance(row, Mapping) else {}
        image = next((values[key] for key in IMAGE_KEYS if key in values), None)
        if image is not None and values.get(field) not in (None, ""):
            found[PurePosixPath(str(image).strip()).as_posix()] = str(values[field])
    return found
