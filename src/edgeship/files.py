"""Hashes, atomic writes and the lock of a work folder.

Everything is written to a temporary name beside its place and renamed, so a file is whole or absent.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from edgeship.errors import StorageError, WorkFolderBusy

CHUNK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        StorageError: No space left, read-only, not permitted, or a device or folder stands there.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is not a regular file", do="choose another place with --out")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises StorageError as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. Raises StorageError as :func:`write_bytes` does."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False, default=str) + "\n")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failing file system into one sentence.

    Raises:
        StorageError: No space left, read-only, not permitted, or something else stands in the way of ``path``.
    """
    try:
        yield
    except OSError as error:
        full = {errno.ENOSPC, errno.EDQUOT}
        denied = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
        if error.errno in full:
            raise StorageError(
                f"no space left while writing {path}", do="free some space and run the same command again: it continues"
            ) from error
        if error.errno in denied:
            raise StorageError(
                f"{path} cannot be written: {os.strerror(error.errno or 0)}",
                do="choose another folder with --out, or change its permissions",
            ) from error
        raise


@contextmanager
def finished_folder(place: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``place`` when the block ends well, and vanishes when it does not.

    An existing ``place`` is replaced. Killed anywhere, ``place`` is whole or absent; leftovers match ``.tmp-*``.
    """
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{place.name}-", dir=place.parent))
    try:
        with storage_errors(place):
            yield temporary
            temporary.chmod(0o755)
            if place.exists():
                shutil.rmtree(place)
            temporary.replace(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed runs left behind. Call only while holding the lock of the work folder."""
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a work folder for one run. The kernel frees the lock when the process ends, however it ends.

    Raises:
        WorkFolderBusy: Another process holds it.
        StorageError: The folder cannot be made or written.
    """
    import fcntl

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / "lock").open("a+")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise WorkFolderBusy(
                f"another edgeship run (process {holder}) works in {folder}",
                do="wait for it, or give this run its own folder with --out",
            ) from None
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def peak_resident_mib() -> float | None:
    """This process's own largest resident size in MiB (``VmHWM``); None where /proc does not tell.

    ``getrusage`` would not do: a process inherits the peak of the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return next((int(line.split()[1]) / 1024 for line in lines), None)


def _remembered(memory: Path) -> dict[str, list[Any]]:
    """What a hasher wrote: path → size, modification time, inode, hash. A damaged file is worth nothing."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {path: entry for path, entry in known.items() if isinstance(entry, list) and len(entry) == 4}


class Hasher:
    """SHA-256 of many files, remembered by path, size and modification time between runs. Safe from several threads.

    Args:
        memory: The JSON file that remembers; absent: nothing is remembered.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        self._lock = Lock()
        self._trees: dict[Path, str] = {}
        if memory is not None and memory.is_file():
            self._known = _remembered(memory)

    def file(self, path: Path) -> str:
        """Hexadecimal SHA-256 of a file."""
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(path))
        if known is not None and known[:3] == stamp:
            return str(known[3])
        digest = sha256_file(path)
        with self._lock:
            self._known[str(path)] = [*stamp, digest]
            self._changed = True
        return digest

    def tree(self, path: Path) -> str:
        """One hash for a file, or for a folder's files with their relative names. Hidden files are left out.

        A folder is read once: what a run calls its data is what lay there when it first looked.
        """
        if path.is_file():
            return self.file(path)
        if path in self._trees:
            return self._trees[path]
        listing = [
            (str(item.relative_to(path)), self.file(item))
            for item in sorted(path.rglob("*"))
            if item.is_file() and not any(part.startswith(".") for part in item.relative_to(path).parts)
        ]
        self._trees[path] = sha256_json(listing)
        return self._trees[path]

    def save(self) -> None:
        """Write what was learned."""
        with self._lock:
            if self._memory is not None and self._changed:
                write_text(self._memory, json.dumps(self._known))
                self._changed = False
