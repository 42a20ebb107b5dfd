"""A device's worker: joins a cluster under a name, with its labels, and runs one trial at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeship.config import Target
from edgeship.errors import TargetError
from edgeship.targets import on_worker
from edgeship.targets.access import Access, library
from edgeship.targets.cluster import CONNECT_S
from edgeship.trial import shared

THREADS = 4
"""One for the device, the others for what is asked meanwhile."""


@dataclass(frozen=True)
class Joining:
    """How a worker joins.

    Args:
        access: The scheduler.
        name: Its own name in the cluster.
        labels: What it serves, beside its name.
        base: Where it keeps the files of trials, by content.
        via: A device that it passes trials on to over SSH; None: they run here.
        at_once: How many trials are on its device at once; whatever is timed is alone there all the same.
    """

    access: Access
    name: str
    labels: tuple[str, ...] = ()
    base: Path = Path("edgeship-worker")
    via: Target | None = None
    at_once: int = 1


def work(joining: Joining) -> None:
    """Serve until the scheduler is gone or the process is told to end; a trial that runs here then ends too.

    Raises:
        TargetError: The scheduler cannot be reached, refuses the certificate, or has a worker of this name.
    """
    joining.access.require_safe()
    library()
    labels = tuple(dict.fromkeys((joining.name, *joining.labels)))
    on_worker.configure(joining.base, joining.name, labels, joining.via)
    if joining.at_once > 1:
        os.environ[shared.VARIABLE] = str(joining.base.resolve() / "device")
    for name in ("distributed", "asyncio", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="edgeship-worker-") as scratch:
            asyncio.run(_serve(joining, labels, scratch))
    finally:
        on_worker.stop_all()


async def _serve(joining: Joining, labels: tuple[str, ...], scratch: str) -> None:
    distributed = library()
    resources = {f"device:{joining.name}": float(joining.at_once)} | {f"label:{label}": 1.0 for label in labels}
    try:
        worker = await distributed.Worker(
            joining.access.address,
            name=joining.name,
            nthreads=THREADS + joining.at_once - 1,
            resources=resources,
            security=joining.access.security(),
            local_directory=scratch,
            dashboard=False,
            memory_limit=0,
            death_timeout=CONNECT_S,
        )
    except (OSError, ValueError, RuntimeError, TimeoutError) as error:
        why = str(error.__cause__ or error).strip().splitlines()
        raise TargetError(
            f"{joining.name} cannot join {joining.access.address}: {why[0][:300] if why else type(error).__name__}",
            expected="a running scheduler, certificates of one authority, and a name that no other worker has",
            do="look whether it runs, and compare --ca, --cert, --key and --name",
        ) from None
    try:
        await worker.finished()
    finally:
        on_worker.stop_all()
        with contextlib.suppress(Exception):
            await worker.close(timeout=2, nanny=False)
