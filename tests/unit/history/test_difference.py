"""What changed between two entries, and the history as a table."""

from __future__ import annotations

import csv

import pytest
from pyarrow import parquet
from test_store import entry

from edgeship.errors import UserInputError
from edgeship.history.difference import difference
from edgeship.history.export import COLUMNS, export


def test_only_what_differs_is_told():
    before = entry().model_copy(update={"number": 1})
    rules = (before.rules[0].model_copy(update={"measured": 0.02, "outcome": "fail"}), before.rules[1])
    target = before.targets[0].model_copy(update={"name": "thor", "engine_version": "11.4"})
    moved = [item.model_copy(update={"target": "thor"}) for item in rules]
    after = before.model_copy(
        update={"number": 2, "verdict": "NO-SHIP", "targets": (target,), "rules": tuple(moved), "figures": ()}
    )
    found = difference(before, after)
    assert [(item.name, item.before, item.after, item.outcome) for item in found.moved] == [
        ("rule max_drop.m0", 0.0, 0.02, ("pass", "fail"))
    ]
    assert (found.entries, found.verdicts) == ((1, 2), ("SHIP", "NO-SHIP"))
    assert found.facts == ("thor: engine version 10.3 → 11.4",)
    assert (found.only_before, found.only_after) == ((), ())


def test_candidates_of_one_run_alone_are_named():
    before = entry()
    other = before.rules[0].model_copy(update={"candidate": "fp16"})
    after = before.model_copy(update={"rules": (*before.rules, other)})
    assert difference(before, after).only_after == ("orin/fp16",)
    assert difference(after, before).only_before == ("orin/fp16",)


def test_csv_and_parquet_hold_the_same_rows(tmp_path):
    entries = [entry("a"), entry("b", rules=1)]
    assert [export(entries, tmp_path / name) for name in ("h.csv", "h.parquet")] == [3, 3]
    with (tmp_path / "h.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    told = parquet.read_table(tmp_path / "h.parquet").to_pylist()
    assert list(table[0]) == list(told[0]) == list(COLUMNS)
    assert [row["rule"] for row in table] == [row["rule"] for row in told]
    assert (told[1]["measured"], told[1]["bound"], told[1]["engine_version"]) == (0.001, None, "10.3")
    with pytest.raises(UserInputError, match="names no format"):
        export(entries, tmp_path / "h.xlsx")
