"""``.npz`` files without pickle, their uncompressed arrays mapped from disk instead of read."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError, UnsafeFile
from edgeship.files import open_outside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BROKEN_ARRAY = (OSError, ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError)
"""What numpy raises for a damaged ``.npy``: its header is read as a Python literal."""
_BROKEN_ZIP = (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, struct.error, zlib.error)
"""What zipfile raises; RuntimeError (NotImplementedError among it) for encrypted members and unknown compressions."""
_PREFIX = struct.Struct("<6sBB")
"""The start of an ``.npy``: its magic and version; the length of the header follows, two bytes or four."""
_LOCAL_HEADER = struct.Struct("<26xHH")
"""A zip member's local header: the lengths of its name and of its extra field end its first 30 bytes."""


MAX_HEADER_BYTES = 1 << 16
MAX_MEMBERS = 4096


@dataclass(frozen=True)
class Header:
    """An array of an ``.npz`` as it describes itself, before any of it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Bytes of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(path: Path) -> dict[str, Header]:
    """The arrays' names, shapes and dtypes; none of their values is read. Raises DataError as :func:`open_npz` does."""
    with _opened(path) as archive:
        return {member.filename[:-4]: _header(archive, member)[0] for member in _members(archive)}


def open_npz(path: Path, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of an ``.npz``. Stored (uncompressed) ones are memory-mapped, so a large file costs no memory.

    Args:
        path: The file.
        names: Of the arrays to read; None: all.

    Raises:
        DataError: Absent, not a zip of arrays, or one that needs pickle.
    """
    with _opened(path) as archive:
        wanted = [item for item in _members(archive) if names is None or item.filename[:-4] in names]
        return {member.filename[:-4]: _array(path, archive, member) for member in wanted}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip; what breaks while it is read becomes DataError."""
    try:
        with open_outside(path) as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", do="name an .npz file") from None
    except UnsafeFile as error:
        raise DataError(error.found, expected="an .npz file") from None
    except (*BROKEN_ARRAY, *_BROKEN_ZIP) as error:
        raise DataError(
            f"{path} is not an .npz of plain arrays: {error}",
            expected="a file by numpy.savez",
            do="save the arrays again: numpy.savez(path, name=array)",
        ) from None


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{len(members)} arrays; at most {MAX_MEMBERS} are read")
    return members


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[Header, bool, int]:
    """What the array is, whether its axes are stored in Fortran's order, and the bytes before its first value."""
    with archive.open(member) as stream:
        start = stream.read(_PREFIX.size + 2)
        version, length = start[6:7], int.from_bytes(start[8:10], "little")
        if version != b"\x01":
            start += stream.read(2)
            length = int.from_bytes(start[8:12], "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{member.filename} has a header of {length} bytes")
        text = io.BytesIO(start + stream.read(length))
    number = np.lib.format.read_magic(text)
    reader = np.lib.format.read_array_header_1_0 if number == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(text)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which need pickle")
    if any(axis < 0 for axis in shape):
        raise ValueError(f"{member.filename} has the shape {list(shape)}")
    return Header(tuple(shape), dtype), fortran, text.tell()


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    header, fortran, before = _header(archive, member)
    if header.size_bytes != member.file_size - before:
        raise ValueError(
            f"{member.filename} has {member.file_size - before} bytes, its header says {header.size_bytes}"
        )
    if member.compress_type != zipfile.ZIP_STORED or not header.size_bytes or not header.shape:
        with archive.open(member) as stream:
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
            return array
    with open_outside(path) as raw:
        raw.seek(member.header_offset)
        name, extra = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name + extra + before
    order = "F" if fortran else "C"
    return np.memmap(path, dtype=header.dtype, mode="r", offset=start, shape=header.shape, order=order)  # type: ignore[call-overload,no-any-return]
