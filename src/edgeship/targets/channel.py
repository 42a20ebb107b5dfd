"""Messages over a pipe: one JSON object a line, followed by ``size`` raw bytes where the message has a ``payload``."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeship.targets import wire

MAX_LINE_BYTES = 64 << 20
"""Longest request: the list of all files of a large data set."""
MAX_REPLY_BYTES = 1 << 18
"""Longest reply, where it does not list what was asked for."""
STALL_S = 60.0
"""Longest time without one byte where bytes are due, or in which the other end takes none."""
LEAST_BYTES_S = 16 << 10
"""Slowest transfer of a payload that is waited for, over its whole length."""
CHUNK = 1 << 18


class Closed(Exception):
    """The other end is gone."""


class Malformed(Exception):
    """The other end sends something else than messages."""


class Channel:
    """Both ends use it. ``reading`` and ``writing`` are file descriptors of pipes.

    Args:
        reading: Where messages come from.
        writing: Where messages go.
        check: Called now and then while waiting; may raise to give up.
    """

    def __init__(self, reading: int, writing: int, check: Callable[[], None] = lambda: None) -> None:
        self._reading = reading
        self._writing = writing
        self._check = check
        self._buffer = bytearray()
        os.set_blocking(writing, False)

    def send(self, message: dict[str, Any], payload: Path | None = None) -> None:
        """Send a message, and a file's content after it. Raises Closed."""
        if payload is None:
            self._write(json.dumps(message).encode() + b"\n")
            return
        with payload.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            self._write(json.dumps({**message, "payload": size}).encode() + b"\n")
            left = size
            while left:
                data = stream.read(min(CHUNK, left))
                if not data:
                    raise OSError(f"{payload} shrank while it was sent")
                self._write(data)
                left -= len(data)

    def receive(self, timeout_s: float | None = None, *, limit: int = MAX_LINE_BYTES) -> dict[str, Any] | None:
        """The next message, of at most ``limit`` bytes; None when no whole one came in time.

        Raises Closed at the end, and Malformed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > limit:
                raise Malformed(f"a message of more than {limit} bytes")
            if not self._fill(deadline):
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = wire.hear(line.decode("utf-8", "replace")) if end <= limit else {}
        if not message:
            raise Malformed(f"{line[:80]!r} is not a message")
        return message

    def payload(self, size: int, sink: Callable[[bytes], Any]) -> None:
        """Pass ``size`` raw bytes to ``sink``. Raises Closed, also when they come too slowly."""
        left = size
        last = time.monotonic() + STALL_S + size / LEAST_BYTES_S
        while left:
            if not self._buffer and not self._fill(min(last, time.monotonic() + STALL_S)):
                raise Closed(f"{left} bytes were still to come, and came too slowly")
            part = bytes(self._buffer[:left])
            del self._buffer[: len(part)]
            left -= len(part)
            sink(part)

    def _fill(self, deadline: float | None) -> bool:
        """Take more bytes; whether any came before the deadline."""
        while True:
            self._check()
            wait = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
            if wait <= 0 and not select.select([self._reading], [], [], 0)[0]:
                return False
            if wait > 0 and not select.select([self._reading], [], [], wait)[0]:
                continue
            try:
                data = os.read(self._reading, CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("the other end closed the connection")
            self._buffer += data
            return True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        last = time.monotonic() + STALL_S
        while view:
            self._check()
            try:
                view = view[os.write(self._writing, view) :]
                last = time.monotonic() + STALL_S
            except BlockingIOError:
                if time.monotonic() > last:
                    raise Closed(f"the other end took nothing for {STALL_S:g} s") from None
                select.select([], [self._writing], [], 0.2)
            except OSError:
                raise Closed("the other end closed the connection") from None
