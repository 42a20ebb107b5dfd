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
from edgeship.errors import TargetError, UserInputError
from edgeship.files import storage_errors
from edgeship.targets import on_worker
from edgeship.targets.access import Access, library
from edgeship.targets.cluster import CONNECT_S, NAME
from edgeship.targets.link import is_host
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
        UserInputError: The address is not safe, or a name, a label or the host is none.
        StorageError: The folder for the files of trials cannot be made.
        TargetError: The scheduler cannot be reached, refuses the certificate, or has a worker of this name.
    """
    joining.access.require_safe()
    library()
    _require_sound(joining)
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


def _require_sound(joining: Joining) -> None:
    wrong = [name for name in (joining.name, *joining.labels) if not NAME.fullmatch(name)]
    if wrong:
        raise UserInputError(
            f"a worker or a label cannot be called {wrong[0]!r}", expected="letters, digits, '_', '-' or '.'",
            do="correct --name or --labels",
        )  # fmt: skip
    if joining.via is not None and not is_host(joining.via.host or ""):
        raise UserInputError(
            f"--ssh {joining.via.host!r} is not a host", expected="a name that ssh takes, such as user@name",
            do="give what you type after ssh",
        )  # fmt: skip
    with storage_errors(joining.base):
        joining.base.mkdir(parents=True, exist_ok=True)


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
        if isinstance(error, TimeoutError):
            why = [f"nobody answered within {CONNECT_S:g} s"]
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
