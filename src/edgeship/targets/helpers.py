"""Trials of this machine that equal workers of a fleet run ahead of need: the previews of a search.

A search looks at its plans in a fixed order and stops at the first that fails. While this machine tries the first one,
workers try those after it; what they found is taken over when its turn comes, and dropped when it does not come. Only
workers take part whose processor, cores and software are this machine's, so that an answer does not depend on where it
was made, and only those of other hosts: here they would share the cores. This machine never waits for a worker that
has not begun, and tries itself what a worker lost.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeship.config import Target
from edgeship.errors import EdgeshipError
from edgeship.files import sha256_file, storage_errors
from edgeship.progress import Progress, silent
from edgeship.results import Trial, trial_folder
from edgeship.targets import local, on_worker, replies
from edgeship.targets.channel import Closed
from edgeship.targets.cluster import POLL_S, Cluster, Lost, Seen, WorkerLink, current, require_going_on
from edgeship.targets.collecting import collect
from edgeship.targets.sending import PLACE, SENT_SPEC, plan_of, prepare
from edgeship.version import __version__

Lay = Callable[[Path], None]
"""Writes what a trial needs into a folder."""


class Dropped(Exception):
    """The trial is not needed any more."""


@dataclass
class _Job:
    """A trial that a worker may run, under its name; ``begun`` when it runs, ``ended`` when nothing more comes."""

    name: str
    lay: Lay
    folder: Path
    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    dropped: threading.Event = field(default_factory=threading.Event)
    whole: bool = False

    def require_wanted(self) -> None:
        """Raise Dropped where nobody waits for it, KeyboardInterrupt where the run was told to stop."""
        require_going_on()
        if self.dropped.is_set():
            raise Dropped(self.name)


def helpers_of(fleet: Cluster) -> list[Seen]:
    """Workers of other hosts that compute what this machine does, to the bit; one of each host."""
    own = on_worker.arithmetic()
    found: dict[str, Seen] = {}
    with contextlib.suppress(Lost):
        for seen in fleet.workers().values():
            told = fleet.call(seen, on_worker.hello, alone=False)
            same = all(told.get(name) == own[name] for name in ("kind", "cores"))
            if same and told["edgeship"] == __version__ and told["host"] is None and told["boot"] != own["boot"]:
                found.setdefault(told["boot"], seen)
    return list(found.values())


@contextmanager
def helping(progress: Progress = silent, timeout_s: float | None = None) -> Iterator[Helpers | None]:
    """The helpers of the fleet that is connected, while the block lasts; None where there is none."""
    fleet = current()
    found = helpers_of(fleet) if fleet is not None else []
    if fleet is None or not found:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="edgeship-previews-") as place:
        made = Helpers(fleet, found, Path(place), progress, timeout_s)
        try:
            yield made
        finally:
            made.end()


class Helpers:
    """Workers that run trials ahead of need, one at a time each.

    Args:
        fleet: The cluster.
        seen: The workers.
        place: A folder for what goes there and comes back.
        progress: Told who is left out, and why.
        timeout_s: Longest time for one attempt at a trial.
    """

    def __init__(
        self, fleet: Cluster, seen: list[Seen], place: Path, progress: Progress, timeout_s: float | None = None
    ) -> None:
        self._fleet, self._place, self._progress, self._timeout_s = fleet, place, progress, timeout_s
        self._jobs: dict[str, _Job] = {}
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.taken_over: list[str] = []
        """Trials whose results came from a worker, by name."""
        self._hands = [threading.Thread(target=self._serve, args=(item,), daemon=True) for item in seen]
        for hand in self._hands:
            hand.start()

    def begin(self, name: str, lay: Lay) -> None:
        """Let the next free worker run the trial whose folder ``lay`` writes."""
        if name not in self._jobs:
            job = _Job(name, lay, self._place / f"{len(self._jobs)}")
            self._jobs[name] = job
            self._waiting.put(job)

    def run(self, name: str, folder: Path, progress: Progress = silent) -> Trial:
        """The trial in ``folder``, from the worker that has begun it, else run here.

        Raises:
            EdgeshipError: As :func:`edgeship.targets.local.run` does.
            KeyboardInterrupt: The run was told to stop.
        """
        job = self._jobs.get(name)
        if job is not None and (job.begun.is_set() or job.ended.is_set()):
            while not job.ended.wait(POLL_S):
                require_going_on()
            if job.whole and _spec_hash(job.folder) == _spec_hash(folder):
                with storage_errors(folder):
                    _take_over(job.folder, folder)
                self.taken_over.append(name)
                return trial_folder.read_trial(folder)
        if job is not None:
            job.dropped.set()
        return local.run(folder, progress, timeout_s=self._timeout_s)

    def drop(self) -> None:
        """Nothing that was begun is needed any more."""
        for job in self._jobs.values():
            job.dropped.set()

    def end(self) -> None:
        """Stop what still runs there, and remove its files."""
        self.drop()
        for _ in self._hands:
            self._waiting.put(None)
        for hand in self._hands:
            hand.join()

    def _serve(self, seen: Seen) -> None:
        """Let a worker run trials until there are no more, or it is lost."""
        while (job := self._waiting.get()) is not None:
            try:
                if not job.dropped.is_set():
                    self._try(seen, job)
            except (Lost, Closed, EdgeshipError, OSError) as error:
                self._progress(0, None, f"{seen.name} is left out of the previews: {error}")
                return
            except (Dropped, KeyboardInterrupt):
                continue
            finally:
                job.ended.set()

    def _try(self, seen: Seen, job: _Job) -> None:
        job.folder.mkdir()
        try:
            job.lay(job.folder)
        except EdgeshipError:
            return  # whoever needs it meets the same fault in its turn
        link, plan = WorkerLink(self._fleet, seen, job.require_wanted), plan_of(job.folder)
        try:
            prepare(link, plan, silent)
            with self._fleet.told(plan.trial, silent, seen.name, job.begun):
                message = self._fleet.call(
                    seen, on_worker.run_trial, plan.trial, self._timeout_s, going_on=job.require_wanted
                )
            error = replies.error_of(message, Target(host=seen.name))
            if error is not None:
                raise error
            job.whole = collect(link, plan, Counter(), silent).failure is None
        except (Dropped, KeyboardInterrupt):
            with contextlib.suppress(Lost, KeyboardInterrupt):
                self._fleet.call(seen, on_worker.remove, plan.trial, alone=False)
            raise


def _spec_hash(folder: Path) -> str:
    return sha256_file(folder / trial_folder.SPEC)


def _take_over(source: Path, folder: Path) -> None:
    """Copy a finished trial, ``trial.json`` last: from there on the folder counts as finished."""
    own = {PLACE, SENT_SPEC, trial_folder.SPEC, trial_folder.TRIAL}
    for item in sorted(source.iterdir()):
        if item.name not in own and item.is_file():
            shutil.copyfile(item, folder / item.name)
    trial_folder.write_trial(trial_folder.read_trial(source), folder)
