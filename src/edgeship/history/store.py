"""The history's file: appended to by any number of processes at once, read by all."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edgeship.errors import ArtifactError, StorageError, UserInputError
from edgeship.files import open_own, sha256_bytes, storage_errors
from edgeship.history.entry import Entry, Evidence, KeptFigure, KeptRule, KeptTarget
from edgeship.history.schema import bring_up_to_date

WAIT_S = 30.0
"""How long a writer waits for another one."""
MAX_FILE_BYTES = 256 << 20
"""The largest file of a released trial that is kept."""
LAST = "last"
_RULE = ("target", "candidate", "name", "outcome", "measured", "bound", "limit", "unit", "reason")
_FIGURE = ("target", "candidate", "name", "value")
_TARGET = ("name", "verdict", "chosen", "engine", "engine_version", "device")


class History:
    """A history by its path. Each call opens the file and closes it again; a missing file is an empty history."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Entry, evidence: Sequence[Evidence] = ()) -> int:
        """Append a finished run, once: the number of the entry that holds it.

        Args:
            entry: The run; its ``number`` is given here.
            evidence: Of each target that ships: the files of the chosen candidate's trial.

        Raises:
            StorageError: The file cannot be written, or another process has held it for half a minute.
            ArtifactError: The file is not a history, damaged, or of a later version.
        """
        with self._opened(write=True) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                number = _number_of(connection, entry.digest) or _insert(connection, entry, evidence)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        return number

    def entries(self, *, model: str | None = None, before: int | None = None, limit: int | None = None) -> list[Entry]:
        """Runs, the earliest first: the last ``limit`` of a model, before an entry's number."""
        sql = "SELECT * FROM runs WHERE 1"
        values: list[str | int] = []
        for condition, value in (("model = ?", model), ("id < ?", before)):
            if value is not None:
                sql, values = f"{sql} AND {condition}", [*values, value]
        sql += " ORDER BY id DESC" + ("" if limit is None else f" LIMIT {limit:d}")
        with self._opened() as connection:
            return [_entry(connection, row) for row in connection.execute(sql, values).fetchall()][::-1]

    def entry(self, reference: str) -> Entry:
        """One run: by its number, or the ``last``.

        Raises:
            UserInputError: There is no such run.
        """
        with self._opened() as connection:
            if reference == LAST:
                row = connection.execute("SELECT * FROM runs ORDER BY id DESC LIMIT 1").fetchone()
            elif reference.isascii() and reference.isdecimal() and len(reference) < 18:
                row = connection.execute("SELECT * FROM runs WHERE id = ?", (int(reference),)).fetchone()
            else:
                row = None
            if row is None:
                (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
                raise UserInputError(
                    f"the history {self.path} has no entry {reference!r}",
                    expected=f"one of its {count} entries, by number, or {LAST!r}" if count else "a run: it is empty",
                    do="edgeship history show" if count else "edgeship ship",
                )
            return _entry(connection, row)

    def last_shipped(self, model: str) -> Entry | None:
        """The last run of a model that ended in SHIP; None where there is none."""
        sql = "SELECT * FROM runs WHERE model = ? AND verdict = 'SHIP' ORDER BY id DESC LIMIT 1"
        with self._opened() as connection:
            row = connection.execute(sql, (model,)).fetchone()
            return None if row is None else _entry(connection, row)

    def number_of(self, digest: str) -> int | None:
        """The number of the entry with a digest; None where there is none."""
        with self._opened() as connection:
            return _number_of(connection, digest)

    def evidence(self, number: int, target: str) -> dict[str, bytes]:
        """The files of the trial that an entry shipped with on a target, each checked against its hash.

        Raises:
            ArtifactError: One of them is not as it was kept.
        """
        sql = "SELECT name, sha256, data FROM evidence JOIN files USING (sha256) WHERE run = ? AND target = ?"
        with self._opened() as connection:
            rows = connection.execute(sql, (number, target)).fetchall()
        for name, digest, data in rows:
            if sha256_bytes(data) != digest:
                raise ArtifactError(
                    f"{name} of entry {number} in {self.path} has changed since it was kept", do="name another release"
                )
        return {name: data for name, _, data in rows}

    @contextmanager
    def _opened(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection whose file is known to be ours; its errors are told in a sentence."""
        with _told(self.path):
            there = self.path.exists() or self.path.is_symlink()
            if there or write:
                with storage_errors(self.path):
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    if not there or os.access(self.path, os.W_OK):
                        open_own(self.path).close()
            with closing(_connect(self.path if there or write else None)) as connection:
                bring_up_to_date(connection, self.path)
                yield connection


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(path or ":memory:", timeout=WAIT_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors as ours.

    Raises:
        StorageError: Not writable, full, or held by another process.
        ArtifactError: Not an SQLite file, or damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            raise _damaged(path, error) from None
        if "locked" in str(error):
            raise StorageError(
                f"another process has held the history {path} for {WAIT_S:g} s",
                do="find out who has it open, then run the same command again",
            ) from None
        raise StorageError(
            f"the history {path} cannot be used: {error}",
            do="make room or make it writable, or name another file in history.file",
        ) from None
    except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path} is not a history, or damaged: {error}",
        expected="the SQLite file that edgeship wrote",
        do="put it aside; the next run begins a new one",
    )


def _number_of(connection: sqlite3.Connection, digest: str) -> int | None:
    row = connection.execute("SELECT id FROM runs WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else int(row[0])


def _insert(connection: sqlite3.Connection, entry: Entry, evidence: Iterable[Evidence]) -> int:
    told = entry.model_dump(mode="json", exclude={"number", "targets", "rules", "figures"})
    told |= {"git_commit": told.pop("commit"), "digests": json.dumps(entry.digests)}
    names = ", ".join(told)
    marks = ", ".join("?" * len(told))
    number = connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", tuple(told.values())).lastrowid
    assert number is not None
    for table, fields, items in (
        ("targets", _TARGET, entry.targets),
        ("rules", _RULE, entry.rules),
        ("figures", _FIGURE, entry.figures),
    ):
        columns = ", ".join(f'"{field}"' for field in ("run", "place", *fields))
        rows = [(number, place, *(getattr(item, field) for field in fields)) for place, item in enumerate(items)]
        connection.executemany(f"INSERT INTO {table} ({columns}) VALUES (?, ?{', ?' * len(fields)})", rows)
    for item in evidence:
        digest = sha256_bytes(item.data)
        connection.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (digest, item.data))
        connection.execute("INSERT INTO evidence VALUES (?, ?, ?, ?)", (number, item.target, item.name, digest))
    return number


def _entry(connection: sqlite3.Connection, row: sqlite3.Row) -> Entry:
    told: dict[str, Any] = dict(row)
    number = told.pop("id")
    told |= {"number": number, "commit": told.pop("git_commit"), "digests": json.loads(told["digests"])}

    def rows(table: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        columns = ", ".join(f'"{field}"' for field in fields)
        found = connection.execute(f"SELECT {columns} FROM {table} WHERE run = ? ORDER BY place", (number,))
        return [dict(item) for item in found.fetchall()]

    return Entry(
        **told,
        targets=tuple(KeptTarget(**item) for item in rows("targets", _TARGET)),
        rules=tuple(KeptRule(**item) for item in rows("rules", _RULE)),
        figures=tuple(KeptFigure(**item) for item in rows("figures", _FIGURE)),
    )
