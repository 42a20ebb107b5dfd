"""A detached process on the device that runs one trial to its end, whether or not anybody is connected."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from edgeship.errors import EdgeshipError, StorageError, TargetError, UnsafeFile
from edgeship.files import open_own, read_text, storage_errors, write_json
from edgeship.results import trial_folder
from edgeship.targets import local, wire
from edgeship.targets.local import last_line

LOCK = "supervisor.lock"
PID = "supervisor.pid"
LOG = "supervisor.log"
PROGRESS = "progress.jsonl"
ERROR = "error.json"
STOPPED = "stopped"
"""The trial was ended on request: it is not to be started again."""
FILES = frozenset({LOCK, PID, LOG, PROGRESS, ERROR, STOPPED})
RESTARTS = 5
ALIVE_S = 10.0
"""How often a device says that a trial still runs."""
FULL = 28
"""Exit status of a supervisor that could not even write down that the disk is full."""


def longest_s(timeout_s: float | None, unlimited_s: float) -> float:
    """How long a trial may take on a device in all, where one attempt may take ``timeout_s``."""
    return unlimited_s if timeout_s is None else (RESTARTS + 1) * (local.RESTARTS + 1) * timeout_s + 3600


def start(place: Path, timeout_s: float | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgeship.targets.remote", "supervise", str(place)]
    if timeout_s is not None:
        command.append(str(timeout_s))
    with open_own(place / LOG) as log:
        log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=place
        )
    with open_own(place / PID, empty=True) as number:
        number.write(str(process.pid).encode())
    return process


def supervise(place: Path, timeout_s: float | None) -> int:
    """Run the trial in ``place`` to its end. At most one process does so at a time; the kernel holds the lock."""
    try:
        with storage_errors(place):
            return _supervised(place, timeout_s)
    except (StorageError, UnsafeFile) as error:
        try:
            write_json(place / ERROR, wire.describe(error))
        except StorageError:
            return FULL
    return 0


def _supervised(place: Path, timeout_s: float | None) -> int:
    with open_own(place / LOCK) as lock:
        if not _take(lock):
            return 0
        lock.truncate()
        lock.write(str(os.getpid()).encode())
        lock.flush()
        signal.signal(signal.SIGTERM, _interrupt)
        if (place / STOPPED).is_file():
            return 0
        (place / ERROR).unlink(missing_ok=True)
        with io.TextIOWrapper(open_own(place / PROGRESS, empty=True), encoding="utf-8") as lines:
            try:
                local.run(place, wire.speaker(lines), timeout_s=timeout_s)
            except StorageError:
                raise
            except EdgeshipError as error:
                write_json(place / ERROR, wire.describe(error))
            except KeyboardInterrupt:
                return 130
    return 0


def _take(lock: BinaryIO, patience_s: float = 1.0) -> bool:
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
    """The process that runs the trial in ``place``, 0 where it does not say its number; None: nobody does.

    Raises:
        UnsafeFile: The lock is a link or another user's.
    """
    try:
        with open_own(place / LOCK, create=False) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _number(lock)
    except FileNotFoundError:
        pass
    return None


def _number(stream: BinaryIO) -> int:
    text = stream.read(20)
    return int(text) if text.isdigit() and len(text) < 11 else 0


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
        with open_own(place / PID, create=False) as stream:
            process = _number(stream)
        line = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return None
    return process if process > 0 and str(place).encode() in line.split(b"\0") else None


def ended(place: Path) -> dict[str, Any] | None:
    if (place / trial_folder.TRIAL).is_file():
        return {"finished": True}
    if (place / ERROR).is_file():
        return wire.hear(read_text(place / ERROR))
    return None


def no_space(place: Path) -> StorageError:
    free = shutil.disk_usage(place).free
    return StorageError(
        f"the device has no space left for the trial: {free / 2**20:.1f} MiB are free at {place}",
        do="free some space there, then run the same command again: it continues",
    )


def gave_up(place: Path) -> TargetError:
    with open_own(place / LOG) as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
        tail = log.read().decode("utf-8", "replace")
    return TargetError(
        f"the trial's process on the device was ended {RESTARTS + 1} times before it could finish"
        + (f"; its last words: {last_line(tail)}" if tail.strip() else ""),
        do="look at the device's memory and system log, then run the same command again: it continues",
    )
