"""What runs on a cluster's worker: the agent of the SSH targets, and trials, one at a time.

Dask sends these functions by their names, so a worker runs its own edgeship's code and nothing that a client sends.
The worker's process says once, by :func:`configure`, where it keeps its files and whether it passes trials on over SSH.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeship.config import Target
from edgeship.data.loader import cores
from edgeship.engines import processor
from edgeship.errors import ArtifactError, EdgeshipError, StorageError
from edgeship.progress import Progress
from edgeship.results import Trial, trial_folder
from edgeship.targets import local, ssh, wire
from edgeship.targets.agent import Agent
from edgeship.targets.channel import Channel, Closed
from edgeship.trial import shared
from edgeship.version import __version__

PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "onnxruntime-ep-nv-tensorrt-rtx",
    "numpy",
    "pillow",
)
COMPUTING = ("numpy", "onnxruntime", "onnxruntime-gpu", "pillow")
"""Packages on which an answer depends, to the bit."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
MOST_BYTES = 32 << 20
"""Of files in one message."""
REPORT_S = 0.2
"""A trial tells its progress at most so often."""
ENDING_S = 10.0
"""For the process of a trial that was stopped."""
Message = tuple[dict[str, Any], bytes | None]
"""A request or a reply, and the bytes that follow it."""


@dataclass
class _Here:
    """This worker. ``via``: the device that it passes trials on to over SSH; None: they run here."""

    base: Path = Path("edgeship-worker")
    name: str = ""
    labels: tuple[str, ...] = ()
    via: Target | None = None
    running: dict[str, threading.Event] = field(default_factory=dict)


_here = _Here()


def configure(base: Path, name: str, labels: Sequence[str], via: Target | None = None) -> None:
    """Say what this process is, before it joins a cluster."""
    _here.base, _here.name, _here.labels, _here.via = base, name, tuple(labels), via


def hello() -> dict[str, Any]:
    """What this worker is: name, labels, versions, its clock in seconds since 1970 (UTC), free bytes of its disk."""
    _here.base.mkdir(parents=True, exist_ok=True)
    found = {package: told for package in PACKAGES if _here.via is None and (told := _version(package))}
    return {
        "name": _here.name,
        "labels": list(_here.labels),
        "edgeship": __version__,
        "protocol": wire.PROTOCOL,
        "packages": found,
        "machine": platform.machine(),
        "host": _here.via.host if _here.via is not None else None,
        "clock": time.time(),
        **arithmetic(),
        "base": str(_here.base.resolve()),
        "free": shutil.disk_usage(_here.base).free,
        "process": os.getpid(),
    }


def arithmetic() -> dict[str, Any]:
    """What this process computes with. Answers of two processes are the same to the bit where ``kind`` is.

    ``boot`` is the same for all processes of one host, ``cores`` are those that this one may use.
    """
    packages = [f"{name} {found}" for name in COMPUTING if (found := _version(name))]
    return {
        "kind": [platform.machine(), processor.name(), *processor.instruction_sets(), *packages],
        "boot": BOOT.read_text().strip() if BOOT.is_file() else platform.node(),
        "cores": cores(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Memory(Channel):
    """A channel whose other end is a list: requests that wait, and replies so far."""

    def __init__(self, requests: Sequence[Message]) -> None:
        self._waiting = list(requests)[::-1]
        self._data = b""
        self.replies: list[Message] = []

    def send(self, message: dict[str, Any], payload: Path | None = None) -> None:
        """Keep a reply, and the content of a file."""
        if payload is None:
            self.replies.append((message, None))
            return
        data = payload.read_bytes()
        self.replies.append(({**message, "payload": len(data)}, data))

    def receive(self, timeout_s: float | None = None, *, limit: int = 0) -> dict[str, Any] | None:  # noqa: ARG002
        """The next request. Raises Closed after the last one."""
        if not self._waiting:
            raise Closed("all requests are answered")
        message, data = self._waiting.pop()
        self._data = data or b""
        return message if data is None else {**message, "payload": len(data)}

    def payload(self, size: int, sink: Callable[[bytes], Any]) -> None:
        """Pass what follows the request to ``sink``."""
        if size:
            sink(self._data[:size])
            self._data = self._data[size:]


def answer(requests: Sequence[Message]) -> list[Message]:
    """The agent's replies to requests, in order; an error is a reply that describes it."""
    if len(requests) == 1 and requests[0][0].get("do") == "machine" and _here.via is not None:
        return [({"machine": _machine_behind(requests[0][0])}, None)]
    channel = _Memory([({"do": "hello"}, None), *requests])
    with shared.beside(), contextlib.suppress(Closed):
        Agent(_here.base.resolve(), channel).serve()
    return channel.replies[1:]


def results(trial: str) -> list[Message]:
    """The list of a trial's results, then those files of it that fit in one message, the smallest first."""
    found = answer([({"do": "list", "trial": trial}, None)])
    room = MOST_BYTES
    small: list[Message] = []
    for name, (size, _) in sorted(found[0][0].get("files", {}).items(), key=lambda item: item[1][0]):
        room -= size
        small += [({"do": "get", "trial": trial, "name": name}, None)] if room >= 0 else []
    return found + answer(small)


def _machine_behind(request: dict[str, Any]) -> dict[str, Any]:
    assert _here.via is not None
    asked = {name: request[name] for name in ("engine", "device", "via")}
    try:
        return ssh.machine(_here.via.model_copy(update=asked))
    except EdgeshipError as error:
        return {"reason": str(error)}


def place_of(trial: str) -> Path:
    """The folder of a trial, or of a ranking, that was sent to this worker. Raises ArtifactError."""
    if Path(trial).name != trial:
        raise ArtifactError(f"{trial[:80]!r} is not a plain name", do="run the same command again")
    return _here.base.resolve() / "trials" / trial


def run_trial(trial: str, timeout_s: float | None) -> dict[str, Any]:
    """Run a trial that was sent to this worker: ``{"finished": True}``, or the error that stopped it."""
    stopped = _here.running.setdefault(trial, threading.Event())
    try:
        place = place_of(trial)
        if not (place / trial_folder.SPEC).is_file():
            raise ArtifactError(f"the worker {_here.name} has no trial {trial[:80]!r}", do="run the same command again")
        _run(place, _teller(trial), timeout_s, stopped)
    except OSError as error:
        return wire.describe(StorageError(f"the worker {_here.name} cannot write {_here.base / 'trials'}: {error}"))
    except EdgeshipError as error:
        return wire.describe(error)
    finally:
        _here.running.pop(trial, None)
    return {"finished": True}


def _run(place: Path, progress: Progress, timeout_s: float | None, stopped: threading.Event) -> Trial:
    if _here.via is None:
        return local.run(place, progress, timeout_s=timeout_s, stopped=stopped)
    return ssh.run(_here.via, place, progress, timeout_s=timeout_s)


def stop(trial: str) -> bool:
    """End a trial that runs here; whether it did."""
    found = _here.running.get(trial)
    if found is not None:
        found.set()
    return found is not None


def remove(trial: str) -> None:
    """End a trial that may run here, and remove its folder."""
    stop(trial)
    deadline = time.monotonic() + ENDING_S
    while trial in _here.running and time.monotonic() < deadline:
        time.sleep(REPORT_S)
    shutil.rmtree(place_of(trial), ignore_errors=True)


def stop_all() -> None:
    """End every trial that runs here: the worker goes down."""
    for found in list(_here.running.values()):
        found.set()


def topic(trial: str) -> str:
    """The topic under which the progress of a trial is told."""
    return f"edgeship-{trial}"


def _teller(trial: str) -> Progress:
    from distributed import get_worker

    worker, last = get_worker(), 0.0
    worker.log_event(topic(trial), {"done": 0, "total": None, "what": "begins"})

    def tell(done: int, total: int | None, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPORT_S:
            last = now
            worker.log_event(topic(trial), {"done": done, "total": total, "what": what})

    return tell
