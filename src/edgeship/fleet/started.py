"""What a fleet starts on this machine and ends with itself: the local scheduler, and workers as processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeship.errors import TargetError
from edgeship.files import storage_errors
from edgeship.fleet import certificates
from edgeship.fleet.config import Device, Fleet
from edgeship.targets import on_worker
from edgeship.targets.access import Access, library
from edgeship.targets.cluster import Cluster
from edgeship.targets.local import last_line, stop

START_S = 60.0
RESTARTS = 10
"""How often a worker that died is started again."""
WATCH_S = 0.3


@contextmanager
def scheduler(fleet: Fleet) -> Iterator[Access]:
    """The scheduler that the fleet names, else one of its own on this machine, over TLS.

    Raises:
        UserInputError: The address is not safe.
        MissingExtra: distributed or cryptography is not installed.
    """
    access = fleet.access()
    if access is not None:
        access.require_safe()
        library()
        yield access
        return
    distributed = library()
    with tempfile.TemporaryDirectory(prefix="edgeship-fleet-") as name:
        cert, key = certificates.make(Path(name))
        made = Access("", cert, cert, key)
        with distributed.LocalCluster(
            n_workers=0,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=made.security(),
            dashboard_address="127.0.0.1:0",  # its own port: two fleets of one machine do not meet
            silence_logs=50,
        ) as cluster:
            yield replace(made, address=cluster.scheduler_address)


@dataclass
class Workers:
    """The workers of this machine, each started again when it dies.

    Args:
        access: The scheduler.
        folder: Where each keeps the files of its trials, by content.
    """

    access: Access
    folder: Path
    _running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self, devices: dict[str, Device]) -> None:
        """Start a worker for each device that is served from here, and keep it."""
        for name, device in devices.items():
            self._start(name, device)
        threading.Thread(target=self._keep, args=(devices,), daemon=True).start()

    def _start(self, name: str, device: Device) -> None:
        place = self.folder / name
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "edgeship", "worker", self.access.address, "--end-with-stdin", "--name", name]
        command += ["--base", str(place)]
        for option, path in (("--ca", self.access.ca), ("--cert", self.access.cert), ("--key", self.access.key)):
            command += [option, str(path)] if path is not None else []
        command += ["--at-once", str(device.at_once)]
        for label in device.labels:
            command += ["--labels", label]
        if device.host is not None:
            command += ["--ssh", device.host, "--python", device.python, "--remote-dir", device.remote_dir]
        gpu = {"CUDA_VISIBLE_DEVICES": str(device.gpu)} if device.gpu is not None else {}
        with (place / "worker.log").open("w") as log:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True,
                env=os.environ | gpu,
            )  # fmt: skip
        self._starts[name] = self._starts.get(name, 0) + 1

    def _keep(self, devices: dict[str, Device]) -> None:
        while not self._ended.wait(WATCH_S):
            for name, process in list(self._running.items()):
                if process.poll() is not None and self._starts[name] <= RESTARTS and not self._ended.is_set():
                    _let_go(process)
                    self._start(name, devices[name])

    def last_words(self, name: str) -> str:
        """What a worker said last; empty where it said nothing."""
        with contextlib.suppress(OSError):
            return last_line((self.folder / name / "worker.log").read_text(encoding="utf-8", errors="replace"))
        return ""

    def end(self) -> None:
        """End them, and the trials that they run."""
        self._ended.set()
        for process in self._running.values():
            with contextlib.suppress(OSError):
                process.terminate()
        for process in self._running.values():
            stop(process)
            _let_go(process)


def _let_go(process: subprocess.Popen[str]) -> None:
    """Close our end of a process's standard input."""
    if process.stdin is not None:
        process.stdin.close()


@contextmanager
def workers(fleet: Fleet, access: Access, folder: Path) -> Iterator[Workers]:
    """The workers of the fleet's own devices while the block lasts."""
    made = Workers(access, folder)
    try:
        made.start({name: device for name, device in fleet.devices.items() if device.where == "here"})
        yield made
    finally:
        made.end()


def wait_until_there(cluster: Cluster, made: Workers, names: set[str]) -> None:
    """Wait for workers that were started here.

    Raises:
        TargetError: One does not come; says its last words.
    """
    deadline = time.monotonic() + START_S
    while missing := sorted(names - cluster.workers().keys()):
        if time.monotonic() > deadline:
            said = made.last_words(missing[0])
            raise TargetError(
                f"the worker {missing[0]} did not start within {START_S:g} s" + (f": {said}" if said else ""),
                do=f"read {made.folder / missing[0] / 'worker.log'}",
            )
        time.sleep(WATCH_S / 2)


def facts(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What every worker says of itself, by name."""
    return {name: cluster.call(seen, on_worker.hello, alone=False) for name, seen in cluster.workers().items()}
