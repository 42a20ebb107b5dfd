"""Where trials run: this machine, or another one over SSH."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.config import Target
from edgeship.progress import Progress, silent
from edgeship.results import Trial


def run(target: Target, folder: Path, progress: Progress = silent, *, timeout_s: float | None = None) -> Trial:
    """Run the trial in ``folder`` on ``target``: in a process here, or on ``target.host`` over SSH.

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
        from edgeship.targets import local

        return local.run(folder, progress, timeout_s=timeout_s)
    from edgeship.targets.ssh import run as run_over_ssh

    return run_over_ssh(target, folder, progress, timeout_s=timeout_s)


def machine(target: Target, progress: Progress = silent) -> dict[str, Any]:
    """What trials on ``target`` are bound to: its engine's version, its device, driver and CUDA. Asked there and now.

    Raises:
        TargetError: The host cannot be reached, or lacks edgeship's light install.
    """
    if target.host is None:
        from edgeship.targets import local

        return local.machine(target.engine, target.device, target.via)
    from edgeship.targets.ssh import machine as machine_over_ssh

    return machine_over_ssh(target, progress)


def stop_all() -> None:
    """End every trial that another thread of this process waits for over SSH.

    Call it when Ctrl-C reaches the main thread: those threads then raise KeyboardInterrupt, and nothing is left
    running on the devices.
    """
    from edgeship.targets.link import stop_all as stop_links

    stop_links()


def start_all() -> None:
    """Undo :func:`stop_all`, before a new run in the same process."""
    from edgeship.targets.link import start_all as start_links

    start_links()
