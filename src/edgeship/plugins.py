"""What installed packages offer by name, through entry points; nothing of them is imported by asking."""

from __future__ import annotations

from importlib.metadata import entry_points

ENGINES = "edgeship.engines"
"""A module with the functions of :class:`edgeship.engines.Engine`."""
TASKS = "edgeship.tasks"
DECODERS = "edgeship.decoders"
TRACKERS = "edgeship.trackers"


def offered(group: str) -> dict[str, str]:
    """Name → ``module`` or ``module:callable`` of every entry point in a group."""
    return {item.name: item.value for item in entry_points(group=group)}
