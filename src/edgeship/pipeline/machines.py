"""What a target's machine says of itself, asked once in a run."""

from __future__ import annotations

from typing import Any

from edgeship import targets
from edgeship.config import Target
from edgeship.pipeline.stages import Run


def machine_of(run: Run, target: Target) -> dict[str, Any]:
    """What a trial's figures are bound to, here or on the device: see :func:`edgeship.targets.machine`.

    Raises:
        TargetError: The host cannot be reached, or lacks edgeship's light install.
    """
    place = (target.host, target.python, target.remote_dir, target.engine, target.device, target.via)
    if place not in run.machines:
        run.machines[place] = targets.machine(target, run.progress)
    return run.machines[place]
