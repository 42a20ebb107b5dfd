"""Atomic writes, the lock, remembered hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeship import files
from edgeship.errors import StorageError, WorkFolderBusy


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    files.write_text(place, "old")
    with pytest.raises(TypeError):
        files.write_bytes(place, "not bytes")  # type: ignore[arg-type]
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    place = tmp_path / "stage"
    with pytest.raises(RuntimeError), files.finished_folder(place) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []
    with files.finished_folder(place) as folder:
        (folder / "whole").write_text("x")
    assert [item.name for item in place.iterdir()] == ["whole"]


@pytest.mark.parametrize("what", ["full", "readonly"])
def test_the_file_system_answers_in_one_sentence(tmp_path: Path, what: str) -> None:
    place = Path("/dev/full") if what == "full" else Path("/proc/edgeship")
    with pytest.raises(StorageError) as caught, files.storage_errors(place):
        if what == "full":
            with place.open("wb", buffering=0) as stream:
                stream.write(b"x")
        else:
            raise PermissionError(13, "Permission denied", str(place))
    assert caught.value.do is not None


def test_a_second_run_is_refused_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from edgeship.files import lock\n"
        "with lock(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(WorkFolderBusy, match=str(holder.pid)), files.lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with files.lock(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    memory = tmp_path / "memory.json"
    hasher = files.Hasher(memory)
    first = hasher.file(tmp_path / "a")
    hasher.save()
    assert files.Hasher(memory).file(tmp_path / "a") == first == files.sha256_bytes(b"one")
    (tmp_path / "a").write_text("other")
    assert files.Hasher(memory).file(tmp_path / "a") == files.sha256_bytes(b"other")


def test_a_tree_hash_depends_on_names_and_content(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"1")
    same = files.Hasher().tree(tmp_path / "x")
    assert files.Hasher().tree(tmp_path / "y") == same
    (tmp_path / "y" / "1.png").rename(tmp_path / "y" / "2.png")
    assert files.Hasher().tree(tmp_path / "y") != same


@pytest.mark.parametrize("text", ["[]", '"x"', '{"PATH": 3}', '{"PATH": [1]}', "\xff", "[" * 100_000])
def test_damaged_memories_are_worth_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text("one")
    memory = tmp_path / "memory.json"
    memory.write_text(text.replace("PATH", str(tmp_path / "a")), encoding="latin-1")
    hasher = files.Hasher(memory)
    assert hasher.file(tmp_path / "a") == files.sha256_bytes(b"one")
    hasher.save()
    assert files.Hasher(memory).file(tmp_path / "a") == files.sha256_bytes(b"one")


def test_a_file_where_a_folder_should_be_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(StorageError, match="cannot be written"), files.lock(place):
            pass
    with pytest.raises(StorageError), files.storage_errors(tmp_path / "folder"):
        (tmp_path / "file").replace(tmp_path / "folder")
