"""Where trials run: this machine, another one over SSH, or a worker of a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.config import Target
from edgeship.progress import Progress, silent
from edgeship.results import Trial
from edgeship.targets import cluster, local, probe, ssh
from edgeship.targets.link import start_all, stop_all

__all__ = ["machine", "run", "start_all", "stop_all"]


def run(target: Target, folder: Path, progress: Progress = silent, *, timeout_s: float | None = None) -> Trial:
    """Run the trial in ``folder`` on ``target``: in a process here, over SSH, or on a fleet's worker.

    Safe to call from several threads for different folders. Ctrl-C ends the trial's processes, there as here.

    Args:
        target: Where; the same as in the folder's ``spec.json``.
        folder: The trial's directory, with ``spec.json`` and the files it names. Results come back into it.
        progress: Told what the trial reports.
        timeout_s: Longest time for one attempt; None: no limit.

    Raises:
        EdgeshipError: What stopped the trial and is not the candidate's fault.
        TargetError: The host cannot be reached, or lacks edgeship's light install.
    """
    if target.host is None:
        return local.run(folder, progress, timeout_s=timeout_s)
    if target.host.startswith(cluster.PREFIX):
        return cluster.run(target, folder, progress, timeout_s=timeout_s)
    return ssh.run(target, folder, progress, timeout_s=timeout_s)


def machine(target: Target, progress: Progress = silent) -> dict[str, Any]:
    """What trials on ``target`` are bound to: its engine's version, its device, driver and CUDA. Asked there and now.

    Raises:
        TargetError: The host cannot be reached, or lacks edgeship's light install.
    """
    if target.host is None:
        return probe.machine(target.engine, target.device, target.via)
    if target.host.startswith(cluster.PREFIX):
        return cluster.machine(target, progress)
    return ssh.machine(target, progress)
