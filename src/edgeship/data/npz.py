"""``.npz`` files without pickle, their uncompressed arrays mapped from disk instead of read."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BROKEN_ARRAY = (OSError, ValueError, EOFError, MemoryError, SyntaxError, tokenize.TokenError)
"""What numpy raises for a damaged ``.npy``: its header is read as a Python literal."""
_BROKEN_ZIP = (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, struct.error, zlib.error)
"""What zipfile raises; RuntimeError (NotImplementedError among it) for encrypted members and unknown compressions."""
_LOCAL_HEADER = struct.Struct("<26xHH")
"""A zip member's local header: the lengths of its name and of its extra field end its first 30 bytes."""


def open_npz(path: Path) -> dict[str, Array]:
    """The arrays of an ``.npz``. Stored (uncompressed) ones are memory-mapped, so a large file costs no memory.

    Raises:
        DataError: Absent, no zip of arrays, or one that needs pickle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {member.filename[:-4]: _array(path, archive, member) for member in members}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", do="name an .npz file") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", expected="an .npz file") from None
    except (*BROKEN_ARRAY, *_BROKEN_ZIP) as error:
        raise DataError(
            f"{path} is no .npz of plain arrays: {error}",
            expected="a file by numpy.savez",
            do="save the arrays again: numpy.savez(path, name=array)",
        ) from None


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
        header = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which need pickle")
    if member.compress_type != zipfile.ZIP_STORED or not shape or 0 in shape:
        with archive.open(member) as stream:
            array: Array = np.lib.format.read_array(stream, allow_pickle=False)
            return array
    with path.open("rb") as raw:
        raw.seek(member.header_offset)
        name, extra = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name + extra + header
    order = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)  # type: ignore[call-overload,no-any-return]
