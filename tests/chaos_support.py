"""Killing an SSH trial at a chosen moment and running it again, for the tests and for benchmarks/ssh.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgeship.config import Batch, Target
from sshd_support import Device, children

KINDS = ("connection", "remote", "worker", "local")
CODE = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgeship import targets
from edgeship.results import TrialSpec, read
folder = Path(sys.argv[1])
targets.run(read(TrialSpec, folder / "spec.json").target, folder, lambda d, n, w: print(w, flush=True))
"""


def remote_target(device: Device) -> Target:
    """The device of the tests as a target."""
    place = str(device.folder / "trials-there")
    return Target(host="device", python=sys.executable, remote_dir=place, batch=Batch(min=1, opt=2, max=4), threads=1)


def start(device: Device, folder: Path) -> subprocess.Popen[str]:
    """Run the trial in ``folder`` from a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(folder)],
        env={**os.environ, "EDGESHIP_SSH_CONFIG": str(device.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def at_work(device: Device) -> list[int]:
    """Processes of trials on the device: supervisors and their workers."""
    mark = str(device.folder / "trials-there").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark in line and (b"supervise" in line or b"trial" in line.split(b"\0")):
            found.append(int(path.parent.name))
    return found


def strike(device: Device, process: subprocess.Popen[str], kind: str) -> bool:
    """Kill something with SIGKILL; whether there was anything to kill."""
    if kind == "local":
        victims = [process.pid]
    elif kind == "connection":
        victims = [inner for pid in device.connections() for inner in [*children(pid), pid]]
    else:
        workers = [pid for pid in at_work(device) if b"supervise" not in _line(pid)]
        victims = workers if kind == "worker" else [pid for pid in at_work(device) if pid not in workers]
    struck = False
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
            struck = True
        except ProcessLookupError:
            continue
    return struck


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def round_of(device: Device, folder: Path, kind: str, moment_s: float) -> list[str]:
    """Start a trial, strike after ``moment_s``, run again until it ends well; what the runs said."""
    process = start(device, folder)
    time.sleep(moment_s)
    strike(device, process, kind)
    said, errors = process.communicate(timeout=120)
    if kind == "local":
        process = start(device, folder)
        more, errors = process.communicate(timeout=120)
        said += more
    assert process.returncode == 0, errors
    return said.splitlines()
