"""The device's end of an SSH target: ``python3 -m edgeship.targets.remote``, started by the workstation.

Needs the light install alone. ``serve BASE`` answers requests on standard input and output; ``supervise FOLDER`` is
a detached process that runs one trial to its end, whether or not anybody is connected; ``machine ENGINE DEVICE VIA``
says what such a trial is bound to.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from edgeship.standard_output import take_stdout
from edgeship.targets import probe, supervisor, wire
from edgeship.targets.agent import Agent
from edgeship.targets.channel import Channel, Closed, Malformed
from edgeship.targets.wire import PROTOCOL

__all__ = ["PROTOCOL", "main"]


def main(arguments: list[str]) -> int:
    """``serve BASE``, ``supervise FOLDER [TIMEOUT_S]`` or ``machine ENGINE DEVICE VIA``."""
    if arguments[0] == "supervise":
        return supervisor.supervise(Path(arguments[1]), float(arguments[2]) if len(arguments) > 2 else None)
    writing = take_stdout()
    if arguments[0] == "machine":
        with os.fdopen(writing, "w") as stream:
            wire.say(stream, probe.machine(arguments[1], arguments[2], arguments[3]))
        return 0
    base = Path(arguments[1]).expanduser()
    base = base if base.is_absolute() else Path.home() / base
    with contextlib.suppress(Closed, Malformed, KeyboardInterrupt):
        Agent(base, Channel(0, writing)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
