"""``evaluation.group``: an expression on the path, or a field of the labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeship.config import Evaluation
from edgeship.data.groups import group_names
from edgeship.errors import DataError

IDS = ("drive_1/0001.png", "drive_1/0002.png", "drive_2/0001.png")


def test_no_rule_names_no_groups():
    assert group_names(Evaluation(), IDS) is None


@pytest.mark.parametrize("rule", [r"^(drive_\d+)/", r"drive_\d+"])
def test_an_expression_finds_the_clip(rule):
    assert group_names(Evaluation(group=rule), IDS) == ["drive_1", "drive_1", "drive_2"]


def test_an_expression_that_misses_an_image_is_refused():
    with pytest.raises(DataError, match=r"matches no part of 1 of 3 images, such as drive_2/0001\.png"):
        group_names(Evaluation(group="drive_1"), IDS)
    with pytest.raises(ValidationError, match="not a regular expression"):
        Evaluation(group="(")


@pytest.mark.parametrize("kind", ["csv", "json", "coco", "jsonl", "semicolons", "stems"])
def test_a_field_of_the_labels(tmp_path: Path, kind: str):
    suffix = {"json": "json", "coco": "json", "jsonl": "jsonl"}.get(kind, "csv")
    path = tmp_path / f"labels.{suffix}"
    rows = [{"file_name": name, "label": "a", "clip": k // 2} for k, name in enumerate(IDS)]
    if kind == "csv":
        path.write_text("file_name, label, clip\n" + "".join(f"{r['file_name']}, a, {r['clip']}\n" for r in rows))
    elif kind == "semicolons":
        path.write_text("\ufeffImage;label;clip\n" + "".join(f'"{r["file_name"]}";a;{r["clip"]}\n' for r in rows))
    elif kind == "stems":
        path.write_text("image,clip\n" + "".join(f"{Path(r['file_name']).with_suffix('')},{r['clip']}\n" for r in rows))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps({"images": rows} if kind == "coco" else rows))
    assert group_names(Evaluation(labels=path, group="field:clip"), IDS) == ["0", "0", "1"]
    with pytest.raises(DataError, match="no 'drive' for 3 of 3 images"):
        group_names(Evaluation(labels=path, group="field:drive"), IDS)
