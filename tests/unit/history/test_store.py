"""The history's file: appended once, by several processes at once, migrated, and refused where it is not ours."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeship.errors import ArtifactError, StorageError, UserInputError
from edgeship.history import schema
from edgeship.history.entry import Entry, Evidence, KeptFigure, KeptRule, KeptTarget
from edgeship.history.store import History

SOURCE = Path(__file__).parents[3] / "src"


def entry(digest: str = "a", verdict: str = "SHIP", *, rules: int = 2, model: str = "person") -> Entry:
    target = KeptTarget(
        name="orin", verdict=verdict, chosen="int8", engine="tensorrt", engine_version="10.3", device="Orin"
    )
    made = [
        KeptRule(
            target="orin", candidate="int8", name=f"max_drop.m{number}", outcome="pass", measured=0.001 * number,
            bound=None, limit=0.01, unit="", reason="it holds",
        )
        for number in range(rules)
    ]  # fmt: skip
    figure = KeptFigure(target="orin", candidate="int8", name="latency_p50_ms", value=4.2)
    return Entry(
        digest=digest, finished="2026-11-27T10:00:00+00:00", model=model, version="2", commit="c" * 40, changed=False,
        verdict=verdict, sentence="int8 passes", edgeship="0.1.0", digests={"model": "0" * 64}, targets=(target,),
        rules=tuple(made), figures=(figure,),
    )  # fmt: skip


def test_an_entry_comes_back_as_it_was_appended(tmp_path):
    history = History(tmp_path / "h.sqlite")
    assert history.entries() == [], "a missing file is an empty history"
    number = history.append(entry())
    assert history.entry("last") == entry().model_copy(update={"number": number})
    assert history.entry("1") == history.entry("last")
    point = history.entry("1").earlier(history.entry("1").targets[0])
    assert (point.chosen, point.figures) == ("int8", {"latency_p50_ms": 4.2})


def test_a_run_is_kept_once(tmp_path):
    history = History(tmp_path / "h.sqlite")
    assert [history.append(entry()), history.append(entry()), history.append(entry("b"))] == [1, 1, 2]
    assert [item.digest for item in history.entries()] == ["a", "b"]
    assert [item.digest for item in history.entries(before=2)] == ["a"]
    assert [item.digest for item in history.entries(limit=1)] == ["b"]


def test_the_last_release_is_the_models_own_and_shipped(tmp_path):
    history = History(tmp_path / "h.sqlite")
    for made in (entry("a"), entry("b", "NO-SHIP"), entry("c", model="lanes")):
        history.append(made)
    found = history.last_shipped("person")
    assert found is not None and found.digest == "a"
    assert history.last_shipped("signs") is None


@pytest.mark.parametrize("reference", ["2", "0", "-1", "first", "¹", "9" * 30])
def test_an_entry_that_is_not_there_is_refused(tmp_path, reference):
    history = History(tmp_path / "h.sqlite")
    history.append(entry())
    with pytest.raises(UserInputError, match="has no entry"):
        history.entry(reference)


def test_evidence_is_kept_once_and_checked(tmp_path):
    history = History(tmp_path / "h.sqlite")
    files = [Evidence("orin", "trial.json", b"{}"), Evidence("orin", "records.npz", b"records")]
    for digest in ("a", "b"):
        history.append(entry(digest), files)
    assert history.evidence(2, "orin") == {"trial.json": b"{}", "records.npz": b"records"}
    with sqlite3.connect(tmp_path / "h.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (2,)
        connection.execute("UPDATE files SET data = ? WHERE data = ?", (b"other", b"records"))
    connection.close()
    with pytest.raises(ArtifactError, match=r"records\.npz of entry 1 .* has changed"):
        history.evidence(1, "orin")


WRITER = """
import sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from test_store import entry
from edgeship.history.store import History
for number in range(10):
    History(Path(sys.argv[1])).append(entry(f"{sys.argv[2]}-{number % 5}"))
"""


def test_several_processes_append_at_once(tmp_path):
    places = [str(SOURCE), str(Path(__file__).parent)]
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "h.sqlite"), str(number), *places])
        for number in range(3)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    found = History(tmp_path / "h.sqlite").entries()
    assert sorted(item.digest for item in found) == sorted(f"{w}-{n}" for w in range(3) for n in range(5))
    assert all(len(item.rules) == 2 for item in found)


def old_file(path: Path, version: int) -> None:
    """A history of an earlier version with one run."""
    with sqlite3.connect(path) as connection:
        for statement in (statement for step in schema.MIGRATIONS[:version] for statement in step):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO runs (digest, finished, model, version, git_commit, changed, verdict, sentence, edgeship,"
            " digests) VALUES ('old', '2026-01-01', 'person', '1', '', 0, 'SHIP', 'said', '0.1.0', '{}')"
        )
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_a_file_of_an_earlier_version_is_migrated_and_keeps_its_runs(tmp_path, version):
    old_file(tmp_path / "h.sqlite", version)
    history = History(tmp_path / "h.sqlite")
    assert history.append(entry()) == 2
    assert [(item.digest, item.fleet) for item in history.entries()] == [("old", ""), ("a", "")]


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    old_file(tmp_path / "h.sqlite", 1)
    before = (tmp_path / "h.sqlite").read_bytes()
    broken = (schema.MIGRATIONS[0], (*schema.MIGRATIONS[1], "ALTER TABLE absent ADD COLUMN x"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    with pytest.raises(ArtifactError, match="no such table: absent"):
        History(tmp_path / "h.sqlite").entries()
    assert (tmp_path / "h.sqlite").read_bytes() == before


def test_a_file_of_a_later_version_is_refused(tmp_path):
    History(tmp_path / "h.sqlite").append(entry())
    with sqlite3.connect(tmp_path / "h.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ArtifactError, match=r"a history of version 99\nexpected: version \d or earlier"):
        History(tmp_path / "h.sqlite").entries()


def test_another_programs_file_is_refused_and_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "h.sqlite") as connection:
        connection.execute("CREATE TABLE runs (x)")
    connection.close()
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be looked at" * 40)
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "text.sqlite")
    for name, what in (("h", "another program's"), ("text", "not a history, or damaged"), ("link", "symbolic link")):
        place = tmp_path / f"{name}.sqlite"
        before = place.read_bytes()
        with pytest.raises(ArtifactError, match=what):
            History(place).append(entry())
        assert place.read_bytes() == before


def test_a_folder_that_is_no_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        History(tmp_path / "file" / "h.sqlite").append(entry())


@pytest.mark.slow
@pytest.mark.alone
def test_appending_to_a_hundred_thousand_rules_is_quick(tmp_path):
    """The best of ten: the limit is ours, the other nine are the machine's."""
    history = History(tmp_path / "h.sqlite")
    for number in range(100):
        history.append(entry(f"r{number}", rules=1000))
    times = []
    for number in range(10):
        start = time.perf_counter()
        history.append(entry(f"t{number}", rules=40))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05, times
