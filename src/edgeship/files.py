"""Opening files from outside, hashes, atomic writes and the lock of a work folder.

Everything is written to a temporary name beside its place and renamed, so a file is whole or absent. What others may
have put there is opened by :func:`open_outside` and :func:`open_own` alone.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from edgeship.errors import DataError, StorageError, UnsafeFile, WorkFolderBusy

CHUNK = 1 << 20
MAX_TEXT_BYTES = 64 << 20
"""The largest JSON, TOML or text file that is read whole."""
NAME_IT = "name the file itself"
REMOVE_IT = "find out who put it there, remove it and run again"
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_BROKEN = {errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ENODEV}


def open_outside(path: Path, limit: int | None = None, *, follow: bool = True) -> BinaryIO:
    """A file that somebody else may have made, open for reading: a regular file and nothing that blocks or never ends.

    Args:
        path: The file. Hand the stream, not the path, to libraries that read it.
        limit: The most bytes it may have; None: no bound.
        follow: Whether ``path`` may be a symbolic link to a regular file.

    Raises:
        UnsafeFile: A FIFO, device, socket, folder or (without ``follow``) link, or more than ``limit`` bytes.
        OSError: Absent or not readable.
    """
    _require_regular(path, path.stat() if follow else path.lstat(), NAME_IT)
    link = 0 if follow else os.O_NOFOLLOW
    handle = _open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | link)
    try:
        found = os.fstat(handle)
        _require_regular(path, found, NAME_IT)
        if limit is not None and found.st_size > limit:
            raise UnsafeFile(f"{path} has {found.st_size} bytes", expected=f"at most {limit}")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path, limit: int = MAX_TEXT_BYTES, *, follow: bool = True) -> bytes:
    """All bytes of a file from outside, at most ``limit``. Raises as :func:`open_outside` does."""
    with open_outside(path, limit, follow=follow) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise UnsafeFile(f"{path} grew while it was read", expected=f"at most {limit} bytes")
    return data


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """A file from outside as text, without a byte order mark at its start: UTF-8, or UTF-16 where the mark says so.

    Raises as :func:`open_outside` does, and UnicodeDecodeError (a ValueError).
    """
    data = read_bytes(path, limit)
    return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def open_own(path: Path, *, create: bool = True, empty: bool = False) -> BinaryIO:
    """A file of our own that keeps its place (a lock, a log), open for reading and writing at its start.

    Nothing is changed, not even by emptying it, before it is known to be ours: a regular file with one name, not
    reached through a link, of this user, of root, or of the folder's own owner.

    Args:
        path: The file.
        create: Make it where it is absent.
        empty: Cut it to no bytes.

    Raises:
        UnsafeFile: Something else stands there.
        OSError: Absent without ``create``, or not permitted.
    """
    with suppress(FileNotFoundError):
        _require_regular(path, path.lstat(), REMOVE_IT)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    handle = _open(path, flags)
    try:
        found = os.fstat(handle)
        _require_regular(path, found, REMOVE_IT)
        if found.st_nlink > 1:
            raise _unsafe(path, "has another name too (a hard link)", REMOVE_IT)
        if not is_trusted_owner(found.st_uid, path.parent.stat().st_uid):
            raise _unsafe(path, f"belongs to another user ({found.st_uid})", REMOVE_IT)
        if empty:
            os.ftruncate(handle, 0)
        return os.fdopen(handle, "r+b")
    except BaseException:
        os.close(handle)
        raise


def is_trusted_owner(owner: int, owner_of_folder: int) -> bool:
    """Whether a file of user ``owner`` may be used as ours: who owns its folder could replace it anyway."""
    return owner in (os.geteuid(), 0, owner_of_folder)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unsafe(path, "is a symbolic link", REMOVE_IT) from None
        raise


def _require_regular(path: Path, found: os.stat_result, do: str) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise _unsafe(path, f"is {_KINDS.get(kind, 'a special file')}", do)


def _unsafe(path: Path, what: str, do: str) -> UnsafeFile:
    return UnsafeFile(f"{path} {what}", expected="a regular file", do=do)


def walk(folder: Path) -> Iterator[Path]:
    """The files below a folder in a fixed order, hidden ones left out. Links to folders are followed.

    Raises:
        DataError: A folder cannot be listed, or a link leads back into a folder above it.
    """
    yield from _walk(folder, (folder.resolve(),))


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            inside = sorted(
                (entry for entry in listing if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except FileNotFoundError:
        raise DataError(f"there is no folder {folder}", do="fix the path, or put the files there") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}", do="change its permissions") from None
    for entry in inside:
        path = folder / entry.name
        if entry.is_dir():
            real = path.resolve()
            if real in above:
                raise DataError(f"{path} is a link to {real}, which holds it: a loop", do="remove the link")
            yield from _walk(path, (*above, real))
        elif entry.is_file():
            yield path


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open_outside(path) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def parse_json(text: str) -> Any:
    """JSON from outside as a value: each key stands once in its object, and every number is finite.

    Raises:
        ValueError: Not JSON, nested too deeply, a key twice, or NaN, Infinity or a number beyond float64.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise ValueError(f"the key {twice[:80]!r} stands twice")
        return made

    def finite(number: str) -> float:
        value = float(number)
        if value - value != 0:
            raise ValueError(f"{number[:40]} is not a finite number")
        return value

    try:
        return json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file ``path`` when the block ends well; otherwise nothing changes.

    A symbolic link at ``path`` is replaced, not followed.

    Raises:
        StorageError: No space left, read-only, not permitted, or a device or folder stands there.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is not a regular file", do="choose another place with --out")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises StorageError as :func:`replacing` does."""
    with replacing(path) as stream:
        stream.write(data)


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
        StorageError: No space left, read-only, not permitted, something else stands in the way of ``path``, or the
            disk or a limit of the system failed.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _FULL:
            raise StorageError(
                f"no space left while writing {path}", do="free some space and run the same command again: it continues"
            ) from error
        if error.errno in _DENIED:
            raise StorageError(
                f"{path} cannot be written: {why}",
                do="choose another folder with --out, or change its permissions",
            ) from error
        if _takes_no_names(path, error):
            raise StorageError(
                f"{path} cannot be made: the file system there takes no new files or folders",
                do="choose another place with --out",
            ) from error
        if error.errno in _BROKEN:
            raise StorageError(
                f"the file system failed at {error.filename or path}: {why}",
                do="look at the disk, its limits and its path, then run the same command again: it continues",
            ) from error
        raise


def _takes_no_names(path: Path, error: OSError) -> bool:
    """Whether a file system refused a new name though its folder is there, as /proc does."""
    if error.errno != errno.ENOENT or not isinstance(error.filename, (str, bytes)):
        return False
    asked, whole = Path(os.fsdecode(error.filename)).absolute(), path.absolute()
    return asked == whole or asked in whole.parents or (asked.parent == whole.parent and asked.parent.is_dir())


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
            if place.is_symlink():
                place.unlink()
            elif place.exists():
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
        with suppress(OSError):
            leftover.unlink()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a work folder for one run. The kernel frees the lock when the process ends, however it ends.

    Raises:
        WorkFolderBusy: Another process holds it.
        UnsafeFile: ``lock`` is a link, another user's, or no regular file; what it leads to is left as it is.
        StorageError: The folder cannot be made or written.
    """
    import fcntl

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = open_own(folder / "lock")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = stream.read(20).decode("ascii", "replace").strip()
            holder = holder if holder.isdigit() else "unknown"
            raise WorkFolderBusy(
                f"another edgeship run (process {holder}) works in {folder}",
                do="wait for it, or give this run its own folder with --out",
            ) from None
        stream.truncate()
        stream.write(str(os.getpid()).encode())
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
    """What a hasher wrote: path → size, times of modification and of change, inode, hash; nothing of a damaged file."""
    try:
        known = json.loads(read_text(memory))
    except (ValueError, RecursionError, UnsafeFile):
        return {}
    if not isinstance(known, dict):
        return {}
    return {path: entry for path, entry in known.items() if isinstance(entry, list) and len(entry) == 5}


class Hasher:
    """SHA-256 of many files, remembered by path, size and times between runs. Safe from several threads.

    The time of change is the kernel's own: a file that was written to never looks as it did.


    Args:
        memory: The JSON file that remembers; absent: nothing is remembered.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        self._saved = time.monotonic()
        self._lock = Lock()
        self._trees: dict[Path, str] = {}
        self.asked: set[str] = set()
        """Every file whose hash was asked for, by its path."""
        if memory is not None and memory.is_file():
            self._known = _remembered(memory)

    def file(self, path: Path) -> str:
        """Hexadecimal SHA-256 of a file."""
        stat = path.stat()
        self.asked.add(str(path))
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._known.get(str(path))
        if known is not None and known[:-1] == stamp:
            return str(known[-1])
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
        listing = [(str(item.relative_to(path)), self.file(item)) for item in walk(path)]
        self._trees[path] = sha256_json(listing)
        return self._trees[path]

    def moved(self, old: Path, new: Path) -> None:
        """Know the files of a folder that was renamed by their new paths: renaming it changes none of them."""
        start = f"{old}{os.sep}"
        with self._lock:
            for path in [path for path in self._known if path.startswith(start)]:
                self._known[f"{new}{os.sep}{path.removeprefix(start)}"] = self._known.pop(path)
                self.asked.discard(path)
                self._changed = True

    def save(self, *, every_s: float = 0.0) -> None:
        """Write what was learned, at most once in ``every_s``: all of it is written anew each time."""
        with self._lock:
            if self._memory is not None and self._changed and time.monotonic() - self._saved >= every_s:
                write_text(self._memory, json.dumps(self._known))
                self._changed, self._saved = False, time.monotonic()
