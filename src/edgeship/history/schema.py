"""The tables of a history, and how a file of an earlier version becomes one of this.

The version stands in the file's ``user_version``, and ``application_id`` says whose file it is. A migration is one
transaction: killed anywhere, the file is of the old version or of the new one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edgeship.errors import ArtifactError

APPLICATION_ID = 0x65647368
"""``edsh``: an SQLite file with another number is not a history."""
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, finished TEXT NOT NULL,
            model TEXT NOT NULL, version TEXT NOT NULL, git_commit TEXT NOT NULL, changed INTEGER NOT NULL,
            verdict TEXT NOT NULL, sentence TEXT NOT NULL, edgeship TEXT NOT NULL, digests TEXT NOT NULL)""",
        "CREATE INDEX runs_of_model ON runs (model, id)",
        """CREATE TABLE targets (
            run INTEGER NOT NULL REFERENCES runs (id), place INTEGER NOT NULL, name TEXT NOT NULL,
            verdict TEXT NOT NULL, chosen TEXT, engine TEXT NOT NULL, engine_version TEXT NOT NULL,
            device TEXT NOT NULL, PRIMARY KEY (run, place)) WITHOUT ROWID""",
        """CREATE TABLE rules (
            run INTEGER NOT NULL REFERENCES runs (id), place INTEGER NOT NULL, target TEXT NOT NULL,
            candidate TEXT NOT NULL, name TEXT NOT NULL, outcome TEXT NOT NULL, measured REAL, bound REAL,
            "limit" REAL, unit TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (run, place)) WITHOUT ROWID""",
        """CREATE TABLE figures (
            run INTEGER NOT NULL REFERENCES runs (id), place INTEGER NOT NULL, target TEXT NOT NULL,
            candidate TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
            PRIMARY KEY (run, place)) WITHOUT ROWID""",
        "CREATE TABLE files (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL)",
        """CREATE TABLE evidence (
            run INTEGER NOT NULL REFERENCES runs (id), target TEXT NOT NULL, name TEXT NOT NULL,
            sha256 TEXT NOT NULL REFERENCES files (sha256), PRIMARY KEY (run, target, name)) WITHOUT ROWID""",
    ),
    ("ALTER TABLE runs ADD COLUMN fleet TEXT NOT NULL DEFAULT ''",),
)
"""What makes version n + 1 of version n. One that was released is never changed: a new one follows it."""
VERSION = len(MIGRATIONS)


def bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    """Make an empty file, or one of an earlier version, a history of this version.

    Raises:
        ArtifactError: Another program's file, or of a later version.
        sqlite3.Error: It cannot be read or written.
    """
    if _version(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(_version(connection, path), VERSION):  # another process may have been first
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application, version, tables) != (0, 0, 0):
        raise ArtifactError(
            f"{path} is another program's SQLite file",
            expected="a history that edgeship wrote",
            do="name another file in history.file",
        )
    if version > VERSION:
        raise ArtifactError(
            f"{path} is a history of version {version}",
            expected=f"version {VERSION} or earlier",
            do="use the edgeship that wrote it, or a later one",
        )
    return int(version)
