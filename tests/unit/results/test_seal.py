"""Seals: any change of any file of a finished folder is seen and named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeship.errors import ArtifactError
from edgeship.files import Hasher
from edgeship.results.seal import SEAL, fault, require_sealed, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    for name, text in (("result.json", "{}"), ("inside/weights.bin", "1234"), ("lock", "77")):
        (tmp_path / name).write_text(text)
    seal(tmp_path, "export", 2.5)
    return tmp_path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(folder: Path) -> None:
    (folder / "result.json").rename(folder.parent / "elsewhere.json")
    (folder / "result.json").symlink_to(folder.parent / "elsewhere.json")


def restate(folder: Path) -> None:
    text = json.loads((folder / SEAL).read_text())
    (folder / SEAL).write_text(json.dumps(text | {"seconds": 1.0}))


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: flip(folder / "result.json"), "result.json has changed"),
    (lambda folder: flip(folder / "inside" / "weights.bin"), "inside/weights.bin has changed"),
    (lambda folder: (folder / "inside" / "weights.bin").unlink(), "inside/weights.bin is missing"),
    (lambda folder: (folder / "inside" / "more.bin").write_text("5"), "inside/more.bin was added"),
    (link, "result.json is missing"),
    (lambda folder: (folder / SEAL).unlink(), "its seal.json is missing"),
    (lambda folder: (folder / SEAL).write_text("{"), "its seal.json is damaged"),
    (lambda folder: (folder / SEAL).write_bytes(bytes([255, 0])), "its seal.json is damaged"),
    (restate, "its seal.json was changed"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_change_is_seen_and_named(folder: Path, change: Callable[[Path], object], said: str) -> None:
    require_sealed(folder)
    change(folder)
    assert fault(folder) == said
    with pytest.raises(ArtifactError, match=said):
        require_sealed(folder)


def test_every_byte_of_every_file_counts(folder: Path) -> None:
    for path in (folder / "result.json", folder / SEAL, folder / "inside" / "weights.bin"):
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            for bit in (1, 64):
                damaged = bytearray(whole)
                damaged[place] ^= bit
                path.write_bytes(damaged)
                assert fault(folder), (path.name, place, bit)
        path.write_bytes(whole)
    assert not fault(folder)


def test_locks_and_leftovers_of_killed_writes_are_not_part_of_it(folder: Path) -> None:
    (folder / "lock").write_text("78")
    (folder / ".result.json.x1.tmp").write_text("{")
    assert not fault(folder)


def test_files_beside_the_named_ones_may_change(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "report.html").write_text("a")
    seal(tmp_path, "run", 1.0, ("result.json",))
    (tmp_path / "report.html").write_text("b")
    assert not fault(tmp_path, listed_only=True)
    assert fault(tmp_path)
    flip(tmp_path / "result.json")
    assert fault(tmp_path, listed_only=True) == "result.json has changed"


def test_a_remembering_hasher_sees_a_change_of_the_same_size_and_time(folder: Path, tmp_path: Path) -> None:
    hasher = Hasher(tmp_path.parent / "hashes.json")
    path = folder / "inside" / "weights.bin"
    assert not fault(folder, hasher.file)
    before = path.stat()
    path.write_text("1235")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fault(folder, hasher.file) == "inside/weights.bin has changed"
