"""The device's end of a connection: keeps files by content, lays out trial folders, follows and lists trials.

BASE/blobs/<sha256>      files by content, sent once
BASE/trees/<hash>/…      image folders, made of links to blobs
BASE/trials/<id>/        trial directories
BASE/timing/             timing caches that stay on the device
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeship.errors import ArtifactError, EdgeshipError, StorageError, TargetError
from edgeship.files import CHUNK, open_outside, open_own, replacing, sha256_file, storage_errors
from edgeship.results import trial_folder
from edgeship.targets import supervisor, wire
from edgeship.targets.channel import Channel
from edgeship.targets.local import last_line
from edgeship.targets.probe import importable
from edgeship.version import __version__

POLL_S = 0.05
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


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
        return {"protocol": wire.PROTOCOL, "edgeship": __version__, "base": str(self._base), "free": free}

    def _have(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = request["blobs"]
        return {"missing": [name for name, size in wanted.items() if not _is_whole(self._blob_path(name), size)]}

    def _machine(self, request: dict[str, Any]) -> dict[str, Any]:
        """What trials here are bound to, from a process of its own: no engine's library stays in memory beside them."""
        asked = [request["engine"], request["device"], request["via"]]
        command = [sys.executable, "-m", "edgeship.targets.remote", "machine", *asked]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=self._base, check=False)
        if done.returncode:
            said = last_line(done.stderr.decode("utf-8", "replace"))
            return {"machine": {"reason": f"asking {request['engine']} ended with {done.returncode}: {said}"}}
        return {"machine": json.loads(done.stdout)}

    def _modules(self, request: dict[str, Any]) -> dict[str, Any]:
        """Which modules a trial could not import here. Looks for them and runs nothing."""
        missing = [name for name in request["names"] if not importable(str(name))]
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
            with replacing(place) as stream:
                digest = hashlib.sha256()

                def take(part: bytes) -> None:
                    nonlocal left
                    left -= len(part)
                    digest.update(part)
                    stream.write(part)

                self._channel.payload(size, take)
                if digest.hexdigest() != place.name:
                    raise TargetError("a file was damaged on its way", do="run the same command again: it continues")
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
        for name in (supervisor.ERROR, supervisor.STOPPED):
            (place / name).unlink(missing_ok=True)
        process: subprocess.Popen[bytes] | None = None
        position, starts = 0, 0
        alive = time.monotonic()
        while True:
            running = (process is not None and process.poll() is None) or supervisor.holder(place) is not None
            position = self._pass_on(place / supervisor.PROGRESS, position)
            if not running:
                ended = supervisor.ended(place)
                if ended is not None:
                    self._channel.send(ended)
                    return
                if (place / supervisor.STOPPED).is_file():
                    self._channel.send({"stopped": True})
                    return
                if process is not None and process.returncode == supervisor.FULL:
                    self._channel.send(wire.describe(supervisor.no_space(place)))
                    return
                if starts > supervisor.RESTARTS:
                    self._channel.send(wire.describe(supervisor.gave_up(place)))
                    return
                starts += 1
                position = 0
                with storage_errors(place):
                    (place / supervisor.PROGRESS).unlink(missing_ok=True)
                    process = supervisor.start(place, request.get("timeout_s"))
            if time.monotonic() - alive > supervisor.ALIVE_S:
                alive = time.monotonic()
                self._channel.send({"running": True})
            self._channel.receive(POLL_S)

    def _pass_on(self, path: Path, position: int) -> int:
        try:
            with open_own(path, create=False) as stream:
                stream.seek(position)
                data = stream.read()
        except FileNotFoundError:
            return position
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            message = wire.hear(line.decode("utf-8", "replace"))
            if "what" in message:
                self._channel.send(message)
        return position + whole

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        place = self._trial_path(request)
        trial = trial_folder.finished_trial(place)
        named = () if trial is None else trial_folder.artifacts_of(trial)
        names = sorted({*trial_folder.PRODUCTS, *(artifact.path for artifact in named)})
        files = {
            name: [(place / name).stat().st_size, sha256_file(place / name)]
            for name in names
            if (place / name).is_file()
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
            (place / supervisor.STOPPED).touch()
            supervisor.stop(place)
        return {"stopped": True}

    def _blob_path(self, digest: str) -> Path:
        if not _HASH.fullmatch(digest):
            raise ArtifactError(f"{digest[:80]!r} is not a sha256")
        return self._base / "blobs" / digest

    def _trial_path(self, request: dict[str, Any]) -> Path:
        return self._base / "trials" / _name(request["trial"])


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ArtifactError(f"{text[:80]!r} is not a plain name")
    return text


def _inside(folder: Path, relative: str) -> Path:
    parts = relative.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ArtifactError(f"{relative[:80]!r} is not a path inside a folder")
    place = folder.joinpath(*parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


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
    with open_outside(source) as stream, replacing(place) as sink:
        shutil.copyfileobj(stream, sink, CHUNK)
