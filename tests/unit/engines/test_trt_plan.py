"""The header of a plan: whose it is, and every way in which a file is not one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeship.engines import OpenOptions, read_engine
from edgeship.engines.trt.plan import Plan, parse_plan, read_plan, require_flavour
from edgeship.errors import ArtifactError, EngineMismatch, UnsafeFile


def plan(tag: bytes = b"vtrt", version: tuple[int, ...] = (1, 7, 1, 116), size: int = 200) -> bytes:
    """A plan's header as TensorRT writes it, followed by nothing of interest."""
    head = tag + bytes(4) + (2).to_bytes(8, "little") + size.to_bytes(8, "little") + bytes(version)
    return head.ljust(size, b"\0")


@pytest.mark.parametrize("read", [read_plan, lambda path: read_engine(path, OpenOptions())])
@pytest.mark.parametrize(("place", "says"), [("fifo", "FIFO"), ("/dev/zero", "device")])
def test_what_never_ends_is_no_plan(tmp_path: Path, read: Callable[[Path], object], place: str, says: str) -> None:
    """Neither of the two that read a plan before TensorRT gets its bytes waits, or goes on for ever."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnsafeFile, match=says):
        read(tmp_path / place)


def test_both_flavours_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(plan())
    assert read_plan(path) == Plan("tensorrt-rtx", "1.7.1.116", 200)
    path.write_bytes(plan(b"ftrt", (10, 3, 0, 26)))
    assert read_plan(path) == Plan("tensorrt", "10.3.0.26", 200)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (plan()[:100], "truncated: it has 100 bytes and its header names 200"),
        (plan() + b"more", "followed by foreign bytes"),
        (plan()[:20], "truncated: 20 bytes"),
        (
            b"\x10\x00\x00\x00{json metadata}" + plan(b"ftrt", (10, 3, 0, 26)),
            "19 foreign bytes in front of a TensorRT plan",
        ),
        (b"version https://git-lfs.github.com/spec/v1", "is not a TensorRT plan: it begins with b'vers'"),
        (b"\x08\x08\x12\x04onnx" + bytes(100), "looks like an ONNX model"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_reason(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_plan(path)
    assert says in caught.value.found


def test_a_foreign_header_comes_with_the_command_that_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    inner = plan(b"ftrt", (10, 3, 0, 26))
    path.write_bytes(b"HEADER" + inner)
    with pytest.raises(ArtifactError) as caught:
        read_plan(path)
    assert "tail -c +7" in str(caught.value.do)
    assert parse_plan(path.read_bytes()[6:], len(inner), "it").version == "10.3.0.26"


def test_an_absent_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_plan(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="is a folder"):
        read_plan(tmp_path)


def test_another_flavour_is_refused_by_name() -> None:
    with pytest.raises(EngineMismatch) as caught:
        require_flavour(Plan("tensorrt", "10.3.0.26", 1), "tensorrt-rtx", "x.engine")
    assert "TensorRT 10.3.0.26 plan" in str(caught.value)
    assert "--engine tensorrt" in str(caught.value.do)
