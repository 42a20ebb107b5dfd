"""Trials on the workers of a Dask cluster, by the agent and the messages of the SSH targets.

A target whose host is ``worker:LABEL`` runs on one worker with that label: the first of those named for it that is
there. Files go there once, by content; one thing at a time happens on a device, so that nothing disturbs a clock.
A worker that dies loses nothing that was done: the trial goes on when it is back, or begins on the next one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeship.config import Target
from edgeship.errors import TargetError, UserInputError
from edgeship.progress import Progress, silent
from edgeship.results import Failure, Trial, trial_folder
from edgeship.targets import on_worker, replies, wire
from edgeship.targets.access import Access, library
from edgeship.targets.channel import Closed
from edgeship.targets.collecting import collect
from edgeship.targets.link import REPLY_S, is_stopping
from edgeship.targets.sending import Plan, plan_of, prepare
from edgeship.version import __version__

PREFIX = "worker:"
NAME = re.compile(r"\w[\w.-]*")
"""What a worker, a label and a model may be called."""
CONNECT_S = 30.0
RECONNECT_S = 3.0
"""For one attempt to reach a scheduler that was there before."""
POLL_S = 0.25
RESULT_S = 60.0
"""For the bytes of an answer that is there."""
DEATHS = 3
"""A trial that was running when so many workers died is not tried again."""
R = TypeVar("R", bound=replies.Reply)


class Lost(Exception):
    """The worker, or the scheduler, is gone."""


@dataclass(frozen=True)
class Seen:
    """A worker as the scheduler knows it."""

    name: str
    address: str
    labels: frozenset[str]


@dataclass
class Cluster:
    """A connection to a scheduler. Safe to use from several threads.

    Args:
        access: How it is reached.
        assigned: Label → the names of the workers that may serve it, the preferred one first; absent: any with it.
        patience_s: How long a worker that went away is waited for.
    """

    access: Access
    assigned: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patience_s: float = 600.0
    quarantined: list[str] = field(default_factory=list)
    """Trials that ended their workers, in sentences."""
    _client: Any = None
    _was_there: bool = False
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> Any:
        """A client that is connected; a new one where the last one lost its scheduler.

        Raises:
            TargetError: There is no scheduler, or it refuses our certificate.
            Lost: It was there and is not any more.
        """
        with self._guard:
            if self._client is not None and self._client.status == "running":
                return self._client
            self._drop()
            distributed = library()
            try:
                self._client = distributed.Client(
                    self.access.address,
                    security=self.access.security(),
                    timeout=RECONNECT_S if self._was_there else CONNECT_S,
                    set_as_default=False,
                )
                self._was_there = True
            except (OSError, TimeoutError, ValueError) as error:
                if self._was_there:
                    raise Lost(f"the scheduler {self.access.address} went away") from None
                raise TargetError(
                    f"the scheduler {self.access.address} cannot be reached: {str(error).splitlines()[0][:300]}",
                    expected="a running scheduler whose certificates come from the same authority as ours",
                    do="look whether it runs, and compare --ca, --cert and --key on both sides",
                ) from None
            return self._client

    def is_running(self) -> bool:
        """Whether the scheduler is there: then a worker that is gone died by itself."""
        return self._client is not None and self._client.status == "running"

    def close(self) -> None:
        """Leave the cluster; what runs there is not waited for."""
        with self._guard:
            self._drop()

    def _drop(self) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close(timeout=2)
        self._client = None

    def workers(self) -> dict[str, Seen]:
        """The workers that are there now, by name."""
        try:
            told = self.client().scheduler_info(n_workers=-1)["workers"]
        except (OSError, KeyError, AttributeError) as error:
            raise Lost(str(error)) from None
        found = {}
        for address, item in told.items():
            labels = (name.partition(":")[2] for name in item.get("resources", {}) if name.startswith("label:"))
            found[str(item["name"])] = Seen(str(item["name"]), address, frozenset(labels))
        return found

    def choose(self, label: str) -> Seen | None:
        """The worker that serves a label now; None where none of them is there."""
        there = self.workers()
        names = self.assigned.get(label) or sorted(name for name, item in there.items() if label in item.labels)
        return next((there[name] for name in names if name in there), None)

    def wait_for(self, label: str, progress: Progress) -> Seen:
        """The worker that serves a label, as soon as one is there; a scheduler that went away is waited for too.

        Raises:
            TargetError: None came within the patience, or the scheduler was never there.
        """
        deadline = time.monotonic() + self.patience_s
        while True:
            require_going_on()
            why = f"{', '.join(self.assigned.get(label, ())) or 'nobody'} had it"
            try:
                found = self.choose(label)
                if found is not None:
                    return found
            except Lost as error:
                why = str(error)
            if time.monotonic() > deadline:
                raise TargetError(
                    f"no worker with the label {label!r} for {self.patience_s:g} s ({why})",
                    do="bring it back and run the same command again: finished trials are kept",
                )
            progress(0, None, f"{label}: waiting for its worker")
            time.sleep(POLL_S)

    def call(
        self,
        seen: Seen,
        function: Callable[..., Any],
        *arguments: Any,
        alone: bool = True,
        going_on: Callable[[], None] | None = None,
    ) -> Any:
        """Run a function on a worker and wait for it.

        Args:
            seen: The worker.
            function: One of :mod:`edgeship.targets.on_worker`.
            arguments: Its arguments.
            alone: Nothing else that is alone runs on that device meanwhile.
            going_on: Raises what ends the waiting; None: KeyboardInterrupt where the run was told to stop.

        Raises:
            Lost: The worker or the scheduler went away.
        """
        resources = {f"device:{seen.name}": 1} if alone else None
        try:
            future = self.client().submit(
                function, *arguments, workers=[seen.address], resources=resources, pure=False,
                allow_other_workers=False,
            )  # fmt: skip
            return self._wait(seen, future, going_on or require_going_on)
        except (OSError, AttributeError) as error:
            raise Lost(str(error)) from None

    def _wait(self, seen: Seen, future: Any, going_on: Callable[[], None]) -> Any:
        distributed = library()
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        gone = 0
        try:
            while not ended.wait(POLL_S):
                _going_on_or_cancel(future, going_on)
                here = self.workers().get(seen.name)
                gone = 0 if here is not None and here.address == seen.address else gone + 1
                if gone > 4:  # the client's list is a second or two old
                    future.cancel()
                    raise Lost(f"{seen.name} went away")
            # One long wait: where a short one of distributed's ends as the answer comes, it fails by itself.
            return future.result(timeout=RESULT_S)
        except (distributed.TimeoutError, TimeoutError):
            raise Lost(f"{seen.name} had an answer that did not come within {RESULT_S:g} s") from None
        except (distributed.scheduler.KilledWorker, concurrent.futures.CancelledError) as error:
            raise Lost(f"{seen.name} went away: {type(error).__name__}") from None

    def stop(self, seen: Seen, trial: str) -> None:
        """End a trial on a worker; silently where it, or the scheduler, is not there."""
        with contextlib.suppress(Exception):
            if self.is_running():
                self.client().run(on_worker.stop, trial, workers=[seen.address])

    @contextmanager
    def told(
        self, trial: str, progress: Progress, name: str, begun: threading.Event | None = None
    ) -> Iterator[threading.Event]:
        """Pass on what a trial tells while the block lasts; the event is set when it has begun."""
        begun = begun or threading.Event()

        def hear(event: tuple[float, Any]) -> None:
            begun.set()
            step = replies.Step.model_validate(event[1])
            progress(step.done, step.total, f"{name}: {step.what}")

        client = self.client()
        client.subscribe_topic(on_worker.topic(trial), hear)
        try:
            yield begun
        finally:
            with contextlib.suppress(Exception):
                client.unsubscribe_topic(on_worker.topic(trial))


_open: list[Cluster] = []


@contextmanager
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """Let targets whose host is ``worker:LABEL`` run on a cluster while the block lasts."""
    _open.append(cluster)
    try:
        yield cluster
    finally:
        _open.remove(cluster)
        cluster.close()


def _cluster(target: Target) -> Cluster:
    if not _open:
        raise UserInputError(
            f"target.host = {target.host!r} names a worker of a fleet, and this is not a fleet",
            expected="user@name, or no host",
            do="edgeship fleet fleet.toml",
        )
    return _open[-1]


def current() -> Cluster | None:
    """The cluster that is connected; None: this is no fleet."""
    return _open[-1] if _open else None


def require_going_on() -> None:
    """Raise KeyboardInterrupt where the run was told to stop."""
    if is_stopping():
        raise KeyboardInterrupt


def _going_on_or_cancel(future: Any, going_on: Callable[[], None]) -> None:
    try:
        going_on()
    except BaseException:
        future.cancel()
        raise


def label_of(target: Target) -> str:
    """The label that a target's host names."""
    return (target.host or "").removeprefix(PREFIX)


class WorkerLink:
    """A connection to the agent on a worker; the same requests as over SSH. ``going_on``: see :meth:`Cluster.call`."""

    def __init__(self, cluster: Cluster, seen: Seen, going_on: Callable[[], None] | None = None) -> None:
        self._cluster, self._seen, self._going_on = cluster, seen, going_on
        self.host = seen.name
        told = cluster.call(seen, on_worker.hello, alone=False)
        if told["edgeship"] != __version__ or told["protocol"] != wire.PROTOCOL:
            raise TargetError(
                f"the worker {seen.name} has edgeship {str(told['edgeship'])[:40]}, this is {__version__}",
                expected="the same version on both",
                do=f"pip install edgeship=={__version__} there, and start the worker again",
            )
        self.base, self.free = str(told["base"]), int(told["free"])
        self.useful = False
        self._pending: list[on_worker.Message] = []
        self._data = b""
        self._ahead: dict[str, on_worker.Message] = {}
        """Small results that came with their list, by name."""

    @property
    def channel(self) -> WorkerLink:
        """Where messages go: here."""
        return self

    def send(self, message: dict[str, Any], payload: Path | None = None) -> None:
        """Keep a message and a file's content until the next request, or until they are many."""
        self._pending.append((message, payload.read_bytes() if payload is not None else None))
        if sum(len(data or b"") for _, data in self._pending) > on_worker.MOST_BYTES:
            self._exchange({"do": "sync"})

    def payload(self, size: int, sink: Callable[[bytes], Any]) -> None:
        """Pass what came with the last reply to ``sink``. Raises Closed where it is not as long."""
        if len(self._data) != size:
            raise Closed(f"{len(self._data)} of {size} bytes came")
        sink(self._data)
        self._data = b""

    def ask(
        self,
        request: dict[str, Any],
        kind: type[R],
        *,
        limit: int = 0,  # noqa: ARG002
        wait_s: float = REPLY_S,  # noqa: ARG002
    ) -> R:
        """The reply to a request; how long that takes is the cluster's affair. Raises what the worker reports."""
        if request["do"] == "list":
            told = self._call(on_worker.results, request["trial"])
            self._ahead = {str(message.get("name")): (message, data) for message, data in told[1:]}
            return replies.check(kind, self._answered(told[:1]), self.host)
        ahead = self._ahead.pop(str(request.get("name")), None) if request["do"] == "get" else None
        return replies.check(kind, self._answered([ahead]) if ahead else self._exchange(request), self.host)

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        requests, self._pending = [*self._pending, (request, None)], []
        return self._answered(self._call(on_worker.answer, requests))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._cluster.call(self._seen, function, *arguments, going_on=self._going_on)

    def _answered(self, told: Sequence[on_worker.Message]) -> dict[str, Any]:
        target = Target(host=self.host)
        for message, _ in told:
            error = replies.error_of(message, target)
            if error is not None:
                raise error
        if not told:
            raise Closed(f"{self.host} gave no answer")
        message, data = told[-1]
        self._data = data or b""
        return dict(message)


def machine(target: Target, progress: Progress = silent) -> dict[str, Any]:
    """What trials on a target's worker are bound to. Raises TargetError."""
    cluster, label = _cluster(target), label_of(target)
    request = {"do": "machine", "engine": target.engine, "device": target.device, "via": target.via}
    while True:
        seen = cluster.wait_for(label, progress)
        try:
            told = WorkerLink(cluster, seen).ask(request, replies.MachineTold).machine
        except (Lost, Closed):
            time.sleep(POLL_S)
            continue
        return told.model_dump(exclude_none=True) if told.reason is not None else told.model_dump(exclude={"reason"})


def run(target: Target, folder: Path, progress: Progress = silent, *, timeout_s: float | None = None) -> Trial:
    """Run the trial in ``folder`` on the worker that serves the target's label.

    Raises:
        TargetError: No such worker, one with another edgeship, or one that answers what it should not.
        StorageError: No space left, here or there. Run again: it continues.
        EdgeshipError: What stopped the trial there and is not the candidate's fault.
    """
    finished = trial_folder.finished_for_spec(folder)
    if finished is not None:
        return finished
    cluster, label, plan = _cluster(target), label_of(target), plan_of(folder)
    damaged: Counter[str] = Counter()
    died: list[str] = []
    while True:
        seen = cluster.wait_for(label, progress)
        try:
            link = WorkerLink(cluster, seen)
            prepare(link, plan, progress)
            _try(cluster, seen, plan, progress, timeout_s, died)
            return collect(link, plan, damaged, progress)
        except (Lost, Closed) as error:
            if len(died) >= DEATHS:
                return _quarantine(cluster, plan, died)
            progress(0, None, f"{seen.name}: {error}; trying again")
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            cluster.stop(seen, plan.trial)
            raise


def _try(
    cluster: Cluster, seen: Seen, plan: Plan, progress: Progress, timeout_s: float | None, died: list[str]
) -> None:
    with cluster.told(plan.trial, progress, seen.name) as begun:
        try:
            message = cluster.call(seen, on_worker.run_trial, plan.trial, timeout_s)
        except Lost:
            if begun.is_set() and cluster.is_running():
                died.append(seen.name)
            raise
    error = replies.error_of(message, Target(host=seen.name))
    if error is not None:
        raise error


def _quarantine(cluster: Cluster, plan: Plan, died: list[str]) -> Trial:
    """The trial that ended its workers, as one that failed: the fleet goes on without it."""
    spec = plan.spec
    names = ", ".join(dict.fromkeys(died))
    said = f"quarantined: a worker died {len(died)} times while it ran ({names}); it is not tried again"
    cluster.quarantined.append(f"{spec.target_name} {spec.candidate.name}: {said}")
    trial = Trial(
        candidate=spec.candidate,
        target_name=spec.target_name,
        engine=spec.target.engine,
        device=spec.target.device,
        rebuild=spec.rebuild,
        failure=Failure(stage="start", kind="Crash", message=said),
    )
    trial_folder.mark_spec(plan.folder)
    trial_folder.write_trial(trial, plan.folder)
    return trial
