"""A history as a table for other programs: one row for each rule of each run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeship.errors import MissingExtra, UserInputError
from edgeship.files import replacing, write_text
from edgeship.history.entry import Entry

COLUMNS: dict[str, type] = {
    "entry": int, "finished": str, "model": str, "version": str, "commit": str, "run_verdict": str, "edgeship": str,
    "fleet": str, "target": str, "target_verdict": str, "chosen": str, "engine": str, "engine_version": str,
    "device": str, "candidate": str, "rule": str, "outcome": str, "measured": float, "bound": float, "limit": float,
    "unit": str, "reason": str,
}  # fmt: skip
"""Name → type of every column; absent values are empty."""
ROW_GROUP = 10_000


def rows(entries: Iterable[Entry]) -> Iterable[dict[str, Any]]:
    """One row for each rule of each run, by the names of :data:`COLUMNS`."""
    for entry in entries:
        run = {
            "entry": entry.number, "finished": entry.finished, "model": entry.model, "version": entry.version,
            "commit": entry.commit, "run_verdict": entry.verdict, "edgeship": entry.edgeship, "fleet": entry.fleet,
        }  # fmt: skip
        for rule in entry.rules:
            told = rule.model_dump()
            target = entry.target(rule.target)
            where = target.model_dump(exclude={"name", "verdict"}) if target is not None else {}
            verdict = target.verdict if target is not None else None
            yield run | where | {"target_verdict": verdict, "rule": told.pop("name")} | told


def export(entries: Iterable[Entry], path: Path) -> int:
    """Write :func:`rows` to ``path``, a ``.csv`` or a ``.parquet``; how many there are.

    Raises:
        UserInputError: Another ending.
        MissingExtra: Parquet without pyarrow.
        StorageError: Not writable.
    """
    if path.suffix == ".csv":
        return _csv(rows(entries), path)
    if path.suffix == ".parquet":
        return _parquet(rows(entries), path)
    raise UserInputError(f"{path.name} names no format", expected="a path that ends in .csv or .parquet")


def _csv(table: Iterable[dict[str, Any]], path: Path) -> int:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(COLUMNS))
    writer.writeheader()
    count = 0
    for row in table:
        writer.writerow(row)
        count += 1
    write_text(path, text.getvalue())
    return count


def _parquet(table: Iterable[dict[str, Any]], path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("a history as Parquet", "pyarrow", "history") from None
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    found = pyarrow.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in table], schema=schema)
    with replacing(path) as stream:
        parquet.write_table(found, stream, row_group_size=ROW_GROUP)
    return int(found.num_rows)
