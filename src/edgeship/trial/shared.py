"""Trials that share a device: their evaluations run beside each other, whatever is timed runs alone.

A build and an audit count as timed: TensorRT times kernels to choose among them, and the audit profiles operators.
A worker that shares its device names a file in the environment of its trials; everywhere else nothing is held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from edgeship.files import open_own, storage_errors

VARIABLE = "EDGESHIP_SHARED_DEVICE"
"""Names the file that the trials of a shared device hold; absent: the device is not shared."""


class Turn:
    """Holds a shared device: alone, until :meth:`beside` lets others on it that are not timed either."""

    def __init__(self, stack: ExitStack, place: str) -> None:
        self._device: BinaryIO | None = None
        if place:
            self._device = stack.enter_context(_opened(Path(place)))
            self._gate = stack.enter_context(_opened(Path(f"{place}.next")))

    def alone(self) -> None:
        """Wait until nobody else is on the device; who comes later waits."""
        self._hold(exclusive=True)

    def beside(self) -> None:
        """Wait until nothing is timed on the device."""
        self._hold(exclusive=False)

    def _hold(self, *, exclusive: bool) -> None:
        if self._device is None:
            return
        import fcntl

        fcntl.flock(self._device, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_EX)  # who waits for the device alone keeps others from coming first
        fcntl.flock(self._device, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)


@contextmanager
def turn() -> Iterator[Turn]:
    """The device for as long as the block lasts, held in no way yet; the kernel frees it when the process ends."""
    with ExitStack() as stack:
        yield Turn(stack, os.environ.get(VARIABLE, ""))


@contextmanager
def beside() -> Iterator[None]:
    """Be on a shared device while nothing is timed there."""
    with turn() as held:
        held.beside()
        yield


def _opened(path: Path) -> BinaryIO:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open_own(path)
