"""Where torchrun or accelerate put this process among those that it started: read from the environment, no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SERVED = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """The number of this process, of ``size``; ``here``: how many of them are on this machine."""

    rank: int
    size: int
    here: int


def place() -> Place | None:
    """The place of this process; None: it is the only one."""
    values = [os.environ.get(name, "") for name in NUMBERS]
    if not all(value.isdigit() for value in values) or not all(os.environ.get(name) for name in SERVED):
        return None
    rank, size, _ = map(int, values)
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    return Place(rank, size, int(here) if here.isdigit() else size) if size > 1 else None


def is_follower() -> bool:
    """Whether another process than this one speaks for all of them."""
    where = place()
    return where is not None and where.rank > 0
