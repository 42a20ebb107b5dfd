"""Atomic writes, the lock, remembered hashes."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgeship import files
from edgeship.errors import DataError, StorageError, UnsafeFile, WorkFolderBusy


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


def test_files_of_a_renamed_folder_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old" / "inside").mkdir(parents=True)
    (tmp_path / "old" / "inside" / "a").write_text("one")
    hasher = files.Hasher(tmp_path / "memory.json")
    digest = hasher.file(tmp_path / "old" / "inside" / "a")
    (tmp_path / "old").rename(tmp_path / "new")
    hasher.moved(tmp_path / "old", tmp_path / "new")
    hasher.save()
    read: list[Path] = []
    monkeypatch.setattr(files, "sha256_file", lambda path: read.append(path) or "read")
    again = files.Hasher(tmp_path / "memory.json")
    assert again.file(tmp_path / "new" / "inside" / "a") == digest and not read
    (tmp_path / "new" / "inside" / "a").write_text("two")
    assert again.file(tmp_path / "new" / "inside" / "a") == "read"


def test_links_to_folders_are_followed_and_loops_are_found(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"a")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "drive").symlink_to(tmp_path / "elsewhere")
    (folder / ".hidden").mkdir()
    assert [path.relative_to(folder).as_posix() for path in files.walk(folder)] == ["drive/a.png"]
    before = files.Hasher().tree(folder)
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"b")
    assert files.Hasher().tree(folder) != before
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    with pytest.raises(DataError, match=r"back is a link to .*, which holds it: a loop"):
        list(files.walk(folder))
    with pytest.raises(DataError, match=r"there is no folder .*absent"):
        list(files.walk(tmp_path / "absent"))


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


def special(folder: Path, kind: str) -> Path:
    place = folder / "special"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(place))
    elif kind == "link to a fifo":
        os.mkfifo(folder / "fifo")
        place.symlink_to("fifo")
    else:
        place = Path("/dev/zero")
    return place


SPECIAL = {"fifo": "FIFO", "folder": "folder", "socket": "socket", "link to a fifo": "FIFO|link", "device": "device"}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_opened_and_nothing_waits(tmp_path: Path, kind: str) -> None:
    place = special(tmp_path, kind)
    for read in (files.read_bytes, files.read_text, files.sha256_file, files.open_outside, files.open_own):
        with pytest.raises(UnsafeFile, match=SPECIAL[kind]):
            read(place)


def test_a_link_is_followed_only_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert files.read_bytes(tmp_path / "link") == b"abc"
    with pytest.raises(UnsafeFile, match="symbolic link"):
        files.read_bytes(tmp_path / "link", follow=False)


def test_the_size_of_what_is_read_is_bounded(tmp_path: Path) -> None:
    place = tmp_path / "file"
    with place.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UnsafeFile, match=f"{1 << 40} bytes"):
        files.read_text(place)
    place.write_bytes(b"12345")
    assert files.read_bytes(place, 5) == b"12345"
    with pytest.raises(UnsafeFile, match="at most 4"):
        files.read_bytes(place, 4)


@pytest.mark.parametrize("how", ["symbolic", "hard", "dangling"])
def test_our_own_files_do_not_lead_elsewhere(tmp_path: Path, how: str) -> None:
    victim, place = tmp_path / "victim", tmp_path / "work" / "lock"
    place.parent.mkdir()
    victim.write_text("precious")
    if how == "hard":
        place.hardlink_to(victim)
    else:
        place.symlink_to("../victim" if how == "symbolic" else "../absent")
    for empty in (False, True):
        with pytest.raises(UnsafeFile, match="link"):
            files.open_own(place, empty=empty)
    with pytest.raises(UnsafeFile, match="link"), files.lock(place.parent):
        pass
    assert victim.read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_our_own_files_keep_their_place_and_their_content(tmp_path: Path) -> None:
    place = tmp_path / "log"
    with pytest.raises(FileNotFoundError):
        files.open_own(place, create=False)
    with files.open_own(place) as stream:
        stream.write(b"words")
    with files.open_own(place, create=False) as stream:
        assert stream.read() == b"words"
    with files.open_own(place, empty=True) as stream:
        assert stream.read() == b""


def test_another_users_file_is_not_ours() -> None:
    me = os.geteuid()
    assert files.is_trusted_owner(me, 0)
    assert files.is_trusted_owner(0, me)
    assert files.is_trusted_owner(me + 1, me + 1)
    assert not files.is_trusted_owner(me + 1, me)
    assert not files.is_trusted_owner(me + 1, 0)


def test_writing_replaces_a_link_and_leaves_what_it_led_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "result.json").symlink_to("victim")
    files.write_text(tmp_path / "result.json", "new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "result.json").read_text() == "new"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo").write_text("precious")
    (tmp_path / "stage").symlink_to("elsewhere")
    with files.finished_folder(tmp_path / "stage") as folder:
        (folder / "made").write_text("x")
    assert [item.name for item in (tmp_path / "stage").iterdir()] == ["made"]
    assert (tmp_path / "elsewhere" / "photo").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENAMETOOLONG])
def test_a_failing_disk_is_a_storage_error(number: int) -> None:
    with pytest.raises(StorageError, match=re.escape(os.strerror(number))), files.storage_errors(Path("x")):
        raise OSError(number, os.strerror(number), "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[" * 200_000, "nested too deeply"),
        ("{'a': 1}", "not JSON"),
    ],
)
def test_json_from_outside_is_strict(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        files.parse_json(text)
    assert files.parse_json('{"a": [1, 2.5, -1e308, true, null]}') == {"a": [1, 2.5, -1e308, True, None]}


@pytest.mark.parametrize("write", ["bytes", "folder", "lock"])
def test_a_file_system_that_takes_no_names_is_a_storage_error(write: str) -> None:
    place = Path("/proc/edge")
    with pytest.raises(StorageError, match=r"/proc/edge.* cannot be made: the file system there takes no new files"):
        if write == "bytes":
            files.write_bytes(place / "x.onnx", b"x")
        elif write == "folder":
            with files.finished_folder(place):
                pass
        else:
            with files.lock(place):
                pass


def test_an_absent_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.storage_errors(tmp_path / "out" / "x"):
        (tmp_path / "in" / "absent").read_bytes()
