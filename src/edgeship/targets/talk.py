"""What a trial's files are sent and fetched over: an ``ssh`` process, or a cluster's worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgeship.targets.channel import MAX_REPLY_BYTES
from edgeship.targets.replies import Reply

R = TypeVar("R", bound=Reply)


class Pipe(Protocol):
    """Takes messages, and gives what follows a reply."""

    def send(self, message: dict[str, Any], payload: Path | None = None) -> None:
        """Send a message, and a file's content after it."""

    def payload(self, size: int, sink: Callable[[bytes], Any]) -> None:
        """Pass the ``size`` bytes that follow the last reply to ``sink``."""


class Talk(Protocol):
    """A connection to an agent on a device."""

    host: str
    """What the device is called in messages."""
    base: str
    """Where the agent keeps its files there."""
    free: int
    """Bytes that were free there when the connection was made."""
    useful: bool
    """Whether the device did something over it."""

    @property
    def channel(self) -> Pipe:
        """Where messages go."""

    def ask(self, request: dict[str, Any], kind: type[R], *, limit: int = MAX_REPLY_BYTES, wait_s: float = ...) -> R:
        """The reply to a request, in the form of ``kind``. Raises what the device reports."""
