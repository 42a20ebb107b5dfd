"""How a long step says where it is. The library calls it; only the command line shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by long steps with work done, work in all (None: unknown) and what is being done."""

    def __call__(self, done: int, total: int | None, what: str) -> None: ...


def silent(done: int, total: int | None, what: str) -> None:
    """Report nothing."""
