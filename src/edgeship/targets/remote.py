"""The device's end of an SSH target: ``python3 -m edgeship.targets.remote``, started by the workstation.

Needs the light install alone. ``serve BASE`` answers requests on standard input and output; ``supervise FOLDER`` is
a detached process that runs one trial to its end, whether or not anybody is connected; ``machine ENGINE DEVICE VIA``
says what such a trial is bound to.

    BASE/blobs/<sha256>      files by content, sent once
    BASE/trees/<hash>/…      image folders, made of links to blobs
    BASE/trials/<id>/        trial directories
    BASE/timing/             timing caches that stay on the device
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.machinery
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from edgeship.config import EngineName
from edgeship.errors import ArtifactError, EdgeshipError, StorageError, TargetError
from edgeship.files import sha256_file, storage_errors, write_json
from edgeship.results import trial_folder
from edgeship.targets import wire
from edgeship.targets.channel import Channel, Closed, Malformed
from edgeship.version import __version__

PROTOCOL = 2
RESTARTS = 5
FULL = 28
"""Exit status of a supervisor that could not even write down that the disk is full."""
POLL_S = 0.05
OURS = frozenset(
    {
        "supervisor.lock",
        "supervisor.pid",
        "supervisor.log",
        "progress.jsonl",
        "error.json",
        "stopped",
        "lock",
        trial_folder.SPEC,
        trial_folder.SPEC_MARK,
    }
)
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def main(arguments: list[str]) -> int:
    """``serve BASE``, ``supervise FOLDER [TIMEOUT_S]`` or ``machine ENGINE DEVICE VIA``."""
    if arguments[0] == "supervise":
        return supervise(Path(arguments[1]), float(arguments[2]) if len(arguments) > 2 else None)
    writing = os.dup(1)
    os.dup2(2, 1)
    if arguments[0] == "machine":
        from edgeship.targets import local

        with os.fdopen(writing, "w") as stream:
            wire.say(stream, local.machine(cast(EngineName, arguments[1]), arguments[2], arguments[3]))
        return 0
    base = Path(arguments[1]).expanduser()
    base = base if base.is_absolute() else Path.home() / base
    with contextlib.suppress(Closed, Malformed, KeyboardInterrupt):
        Agent(base, Channel(0, writing)).serve()
    return 0


class Agent:
    """Answers one workstation."""

    def __init__(self, base: Path, channel: Channel) -> None:
        self._base = base
        self._channel = channel
        self._trouble: EdgeshipError | None = None

    def serve(self) -> None:
        """Answer until the other end is gone."""
        handlers = {
            "hello": self._hello,
            "have": self._have,
            "machine": self._machine,
            "modules": self._modules,
            "sync": self._sync,
            "tree": self._tree,
            "trial": self._trial,
            "list": self._list,
            "drop": self._drop,
            "stop": self._stop,
        }
        while True:
            request = self._channel.receive()
            if request is None:
                continue
            kind = request.get("do")
            try:
                if kind == "blob":
                    self._blob(request)
                elif kind == "follow":
                    self._follow(request)
                elif kind == "get":
                    self._get(request)
                else:
                    self._channel.send(handlers[str(kind)](request))
            except EdgeshipError as error:
                self._channel.send(wire.describe(error))

    def _hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        with storage_errors(self._base):
            for name in ("blobs", "trees", "trials", "timing"):
                (self._base / name).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._base).free
        return {"protocol": PROTOCOL, "edgeship": __version__, "base": str(self._base), "free": free}

    def _have(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = request["blobs"]
        return {"missing": [name for name, size in wanted.items() if not _is_whole(self._blob_path(name), size)]}

    def _machine(self, request: dict[str, Any]) -> dict[str, Any]:
        """What trials here are bound to, from a process of its own: no engine's library stays in memory beside them."""
        asked = [request["engine"], request["device"], request["via"]]
        command = [sys.executable, "-m", "edgeship.targets.remote", "machine", *asked]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=self._base, check=False)
        if done.returncode:
            from edgeship.targets.local import last_line

            said = last_line(done.stderr.decode("utf-8", "replace"))
            return {"machine": {"reason": f"asking {request['engine']} ended with {done.returncode}: {said}"}}
        return {"machine": json.loads(done.stdout)}

    def _modules(self, request: dict[str, Any]) -> dict[str, Any]:
        """Which modules a trial could not import here. Looks for them and runs nothing."""
        missing = [name for name in request["names"] if not _importable(str(name))]
        return {"missing": missing, "place": sysconfig.get_path("purelib")}

    def _blob(self, request: dict[str, Any]) -> None:
        """Take one file. Trouble is kept for the next ``sync``, so that many files can follow without waiting."""
        size = int(request["payload"])
        place = self._blob_path(request["sha256"])
        if self._trouble is not None:
            self._channel.payload(size, lambda _part: None)
            return
        left = size
        try:
            with storage_errors(place), _temporary(place) as temporary, temporary.open("wb") as stream:
                digest = hashlib.sha256()

                def take(part: bytes) -> None:
                    nonlocal left
                    left -= len(part)
                    digest.update(part)
                    stream.write(part)

                self._channel.payload(size, take)
                stream.flush()
                os.fsync(stream.fileno())
                if digest.hexdigest() != place.name:
                    raise TargetError("a file was damaged on its way", do="run the same command again: it continues")
                temporary.replace(place)
        except EdgeshipError as error:
            self._trouble = error
            self._channel.payload(left, lambda _part: None)

    def _sync(self, _request: dict[str, Any]) -> dict[str, Any]:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        return {"ok": True}

    def _tree(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make a read-only folder of blobs, once."""
        place = self._base / "trees" / _name(request["name"])
        if not place.is_dir():
            with storage_errors(place):
                temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=place.parent))
                try:
                    for relative, digest in request["files"].items():
                        _link(self._blob_path(digest), _inside(temporary, relative))
                    temporary.chmod(0o755)
                    with contextlib.suppress(FileExistsError, OSError):
                        temporary.replace(place)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
            if not place.is_dir():
                raise StorageError(f"{place} could not be made")
        return {"path": str(place)}

    def _trial(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make a trial directory; files that are there already are kept."""
        place = self._trial_path(request)
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            for relative, digest in request["files"].items():
                target = _inside(place, relative)
                if not target.is_file() or sha256_file(target) != digest:
                    target.unlink(missing_ok=True)
                    _copy(self._blob_path(digest), target)
        return {"path": str(place)}

    def _follow(self, request: dict[str, Any]) -> None:
        """Start the trial if nobody runs it, pass on its progress until it ends.

        A word from the other end is not awaited; its silence is noticed when the pipe closes.
        """
        place = self._trial_path(request)
        for name in ("error.json", "stopped"):
            (place / name).unlink(missing_ok=True)
        process: subprocess.Popen[bytes] | None = None
        position, starts = 0, 0
        while True:
            running = (process is not None and process.poll() is None) or holder(place) is not None
            position = self._pass_on(place / "progress.jsonl", position)
            if not running:
                ended = _ended(place)
                if ended is not None:
                    self._channel.send(ended)
                    return
                if (place / "stopped").is_file():
                    self._channel.send({"stopped": True})
                    return
                if process is not None and process.returncode == FULL:
                    self._channel.send(wire.describe(_full(place)))
                    return
                if starts > RESTARTS:
                    self._channel.send(wire.describe(_gave_up(place)))
                    return
                starts += 1
                position = 0
                with storage_errors(place):
                    (place / "progress.jsonl").unlink(missing_ok=True)
                    process = _start(place, request.get("timeout_s"))
            self._channel.receive(POLL_S)

    def _pass_on(self, path: Path, position: int) -> int:
        if not path.is_file():
            return position
        with path.open("rb") as stream:
            stream.seek(position)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            message = wire.hear(line.decode("utf-8", "replace"))
            if "what" in message:
                self._channel.send(message)
        return position + whole

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        place = self._trial_path(request)
        files = {
            path.name: [path.stat().st_size, sha256_file(path)]
            for path in sorted(place.iterdir())
            if path.is_file() and not path.name.startswith(".") and path.name not in OURS
        }
        return {"files": files}

    def _get(self, request: dict[str, Any]) -> None:
        self._channel.send({"name": request["name"]}, self._trial_path(request) / _name(request["name"]))

    def _drop(self, request: dict[str, Any]) -> dict[str, Any]:
        shutil.rmtree(self._trial_path(request), ignore_errors=True)
        return {"ok": True}

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        place = self._trial_path(request)
        if place.is_dir():
            (place / "stopped").touch()
            stop(place)
        return {"stopped": True}

    def _blob_path(self, digest: str) -> Path:
        if not _HASH.fullmatch(digest):
            raise ArtifactError(f"{digest[:80]!r} is no sha256")
        return self._base / "blobs" / digest

    def _trial_path(self, request: dict[str, Any]) -> Path:
        return self._base / "trials" / _name(request["trial"])


def _importable(module: str) -> bool:
    """Whether a trial here finds a top-level module; the folder this process was started in does not count."""
    here = os.path.realpath(Path.cwd())
    places = [part for part in sys.path if part and os.path.realpath(part) != here]
    for finder in sys.meta_path:
        path = places if finder is importlib.machinery.PathFinder else None
        if finder.find_spec(module, path) is not None:
            return True
    return False


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ArtifactError(f"{text[:80]!r} is no plain name")
    return text


def _inside(folder: Path, relative: str) -> Path:
    parts = relative.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ArtifactError(f"{relative[:80]!r} is not a path inside a folder")
    place = folder.joinpath(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


@contextlib.contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=place.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _link(source: Path, place: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, place)
    except FileNotFoundError:
        raise ArtifactError(f"{source.name} was not sent") from None
    except OSError:
        _copy(source, place)


def _copy(source: Path, place: Path) -> None:
    if not source.is_file():
        raise ArtifactError(f"{source.name} was not sent")
    with _temporary(place) as temporary:
        shutil.copyfile(source, temporary)
        temporary.replace(place)


def _start(place: Path, timeout_s: float | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgeship.targets.remote", "supervise", str(place)]
    if timeout_s is not None:
        command.append(str(timeout_s))
    with (place / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=place
        )
    (place / "supervisor.pid").write_text(str(process.pid), encoding="utf-8")
    return process


def supervise(place: Path, timeout_s: float | None) -> int:
    """Run the trial in ``place`` to its end. At most one process does so at a time; the kernel holds the lock."""
    try:
        with storage_errors(place):
            return _supervised(place, timeout_s)
    except StorageError as error:
        try:
            write_json(place / "error.json", wire.describe(error))
        except StorageError:
            return FULL
    return 0


def _supervised(place: Path, timeout_s: float | None) -> int:
    from edgeship.targets import local

    with (place / "supervisor.lock").open("a+") as lock:
        if not _take(lock):
            return 0
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        signal.signal(signal.SIGTERM, _interrupt)
        if (place / "stopped").is_file():
            return 0
        (place / "error.json").unlink(missing_ok=True)
        with (place / "progress.jsonl").open("w", encoding="utf-8") as lines:
            try:
                local.run(place, wire.speaker(lines), timeout_s=timeout_s)
            except StorageError:
                raise
            except EdgeshipError as error:
                write_json(place / "error.json", wire.describe(error))
            except KeyboardInterrupt:
                return 130
    return 0


def _take(lock: IO[str], patience_s: float = 1.0) -> bool:
    """Take the lock, unless another supervisor has it. Those who only look hold it for an instant."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def holder(place: Path) -> int | None:
    """The process that runs the trial in ``place``, or None."""
    path = place / "supervisor.lock"
    if not path.is_file():
        return None
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = lock.read().strip()
            return int(text) if text.isdigit() else 0
    return None


def stop(place: Path, patience_s: float = 8.0) -> None:
    """End the process that runs the trial in ``place``, and its children with it."""
    deadline = time.monotonic() + patience_s
    asked = False
    while (process := holder(place)) is not None:
        if process > 0:
            late = time.monotonic() > deadline
            with contextlib.suppress(ProcessLookupError):
                if late or not asked:
                    os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
                    asked = True
        time.sleep(0.05)
    starting = _starting(place)
    if starting is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(starting, signal.SIGKILL)


def _starting(place: Path) -> int | None:
    """A supervisor that has not come to its lock yet, by its command line; None where /proc does not tell."""
    try:
        text = (place / "supervisor.pid").read_text(encoding="utf-8")
        line = Path(f"/proc/{int(text)}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return int(text) if str(place).encode() in line.split(b"\0") else None


def _ended(place: Path) -> dict[str, Any] | None:
    if (place / trial_folder.TRIAL).is_file():
        return {"finished": True}
    if (place / "error.json").is_file():
        return wire.hear((place / "error.json").read_text(encoding="utf-8"))
    return None


def _full(place: Path) -> StorageError:
    free = shutil.disk_usage(place).free
    return StorageError(
        f"the device has no space left for the trial: {free / 2**20:.1f} MiB are free at {place}",
        do="free some space there, then run the same command again: it continues",
    )


def _gave_up(place: Path) -> TargetError:
    from edgeship.targets.local import last_line

    log = place / "supervisor.log"
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.is_file() else ""
    return TargetError(
        f"the trial's process on the device was ended {RESTARTS + 1} times before it could finish"
        + (f"; its last words: {last_line(tail)}" if tail.strip() else ""),
        do="look at the device's memory and system log, then run the same command again: it continues",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
