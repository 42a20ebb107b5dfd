"""Rankings spread over a fleet's workers: the switched graph goes there once, and sets of groups are measured there.

Only workers whose processor, onnxruntime and numpy are this machine's take part: an answer may not depend on where it
was measured. Sets go out in pieces; a worker that is free takes the next one, and when none is left, one that another
worker has not answered yet. So a worker that is timing a trial, or dies, holds nothing up.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edgeship.config import Target
from edgeship.data.loader import MOST_WORKERS
from edgeship.errors import ArtifactError, EdgeshipError, TargetError
from edgeship.files import sha256_file, storage_errors, write_bytes
from edgeship.prepare import graph, large
from edgeship.prepare.frame_checks import pack, unpack
from edgeship.prepare.noise_meter import Measure, Spread, Switched, on_threads
from edgeship.progress import Progress, silent
from edgeship.results import Result, read, write
from edgeship.targets import on_worker, replies, wire
from edgeship.targets.channel import Closed
from edgeship.targets.cluster import POLL_S, Cluster, Lost, Seen, WorkerLink, current, require_going_on
from edgeship.targets.sending import send_blobs
from edgeship.trial import shared
from edgeship.version import __version__

MODEL, FEEDS, JOB = "switched.onnx", "feeds.npz", "job.json"
ROUNDS = 2
"""A piece holds so many sets for each thread of a worker."""


class _Job(Result):
    groups: int
    outputs: tuple[str, ...]


class _Measured(replies.Reply):
    db: Annotated[tuple[replies.Number, ...], Field(max_length=1 << 16)]


# --- on the worker

_opened: dict[str, Switched] = {}
_guard = threading.Lock()


def measure(name: str, sets: Sequence[Sequence[int]], threads: int) -> dict[str, Any]:
    """``{"db": [...]}``: the signal-to-noise for each set of quantized groups; or the error that stopped it."""
    try:
        with shared.beside(), on_threads(_open(name), threads) as ask:
            return {"db": list(ask(sets))}
    except EdgeshipError as error:
        return wire.describe(error)


def _open(name: str) -> Switched:
    """A ranking that was sent here. The last one stays open."""
    with _guard:
        if name not in _opened:
            place = on_worker.place_of(name)
            if not (place / JOB).is_file():
                raise ArtifactError(f"there is no ranking {name[:80]!r}", do="run the same command again")
            job = read(_Job, place / JOB)
            _opened.clear()
            _opened[name] = Switched(place / MODEL, job.groups, job.outputs, tuple(unpack(place / FEEDS)))
        return _opened[name]


def forget(name: str) -> None:
    """Close a ranking here and remove its files."""
    with _guard:
        _opened.pop(name, None)
    shutil.rmtree(on_worker.place_of(name), ignore_errors=True)


# --- on the machine that prepares the model


@dataclass
class Hand:
    """Who measures: a worker, or this process (None), with so many threads."""

    seen: Seen | None
    threads: int
    ready: bool = False
    busy: bool = False
    lost: bool = False


def over_workers(progress: Progress = silent) -> Spread:
    """Where rankings are measured: on the workers of the fleet where that is faster, else in this process."""

    @contextmanager
    def opened(switched: Switched, threads: int) -> Iterator[Measure]:
        fleet = current()
        whole = isinstance(switched.graph, Path) or large.too_large(switched.graph)
        hands = hands_of(fleet, threads) if fleet is not None and not whole else []
        place = (
            _over(fleet, switched, hands, progress) if fleet is not None and hands else on_threads(switched, threads)
        )
        with place as found:
            yield found

    return opened


def hands_of(fleet: Cluster, threads: int) -> list[Hand]:
    """Who takes part in a ranking; none where this process alone has as many threads.

    Workers of one host share its cores. This process takes part where no worker is on its host.
    """
    own = on_worker.arithmetic()
    hosts: dict[str, list[Seen]] = {}
    cores: dict[str, int] = {}
    with contextlib.suppress(Lost):
        for seen in fleet.workers().values():
            told = fleet.call(seen, on_worker.hello, alone=False)
            fits = told["edgeship"] == __version__ and told.get("kind") == own["kind"] and told["host"] is None
            if fits:
                hosts.setdefault(told["boot"], []).append(seen)
                cores[told["boot"]] = int(told["cores"])
    hands = [
        Hand(seen, min(MOST_WORKERS, max(1, cores[boot] // len(found))))
        for boot, found in hosts.items()
        for seen in found
    ]
    if own["boot"] not in hosts:
        hands.append(Hand(None, threads))
    return hands if sum(hand.threads for hand in hands) > threads else []


@contextmanager
def _over(fleet: Cluster, switched: Switched, hands: list[Hand], progress: Progress) -> Iterator[Measure]:
    with tempfile.TemporaryDirectory(prefix="edgeship-ranking-") as place:
        ranking = Ranking(fleet, switched, Path(place), progress)
        try:
            yield lambda sets: ranking.measure(hands, sets)
        finally:
            ranking.end(hands)


class Ranking:
    """A switched graph that several workers measure."""

    def __init__(self, fleet: Cluster, switched: Switched, place: Path, progress: Progress) -> None:
        self._fleet, self._switched, self._progress = fleet, switched, progress
        self._name = f"rank-{secrets.token_hex(12)}"
        assert not isinstance(switched.graph, Path)
        graph.save_onnx(switched.graph, place / MODEL)
        with storage_errors(place):
            write_bytes(place / FEEDS, pack(switched.feeds))
            write(_Job(groups=switched.groups, outputs=switched.outputs), place / JOB)
        self._files = {name: sha256_file(place / name) for name in (MODEL, FEEDS, JOB)}
        self._blobs = {digest: place / name for name, digest in self._files.items()}

    def measure(self, hands: Sequence[Hand], sets: Sequence[Sequence[int]]) -> Iterator[float]:
        """The signal-to-noise for each set, in order; what no worker answers is measured here.

        Raises:
            KeyboardInterrupt: The run was told to stop.
        """
        at_work = [hand for hand in hands if not hand.lost and not hand.busy]
        size = max(1, min([-(-len(sets) // max(1, len(at_work))), *(ROUNDS * hand.threads for hand in at_work)]))
        pieces = [sets[at : at + size] for at in range(0, len(sets), size)]
        share = Share(len(pieces), len(at_work))
        for hand in at_work:
            hand.busy = True
            threading.Thread(target=self._serve, args=(hand, share, pieces), daemon=True).start()
        for number, piece in enumerate(pieces):
            found = share.wait(number)
            if found is None:
                with on_threads(self._switched, max(hand.threads for hand in hands)) as alone:
                    found = list(alone(piece))
            yield from found

    def _serve(self, hand: Hand, share: Share, pieces: Sequence[Sequence[Sequence[int]]]) -> None:
        """Let a hand measure pieces until all are measured, or it is lost."""
        try:
            while (number := share.take()) is not None:
                share.put(number, self._ask(hand, pieces[number]))
        except (Lost, Closed, EdgeshipError) as error:
            hand.lost = True
            who = hand.seen.name if hand.seen is not None else "this machine"
            self._progress(0, None, f"{who} is left out of the ranking: {error}")
        except KeyboardInterrupt:
            hand.lost = True  # the thread that waits for the answers notices by itself
        finally:
            hand.busy = False
            share.leave()

    def _ask(self, hand: Hand, sets: Sequence[Sequence[int]]) -> list[float]:
        if hand.seen is None:
            with on_threads(self._switched, hand.threads) as alone:
                return list(alone(sets))
        if not hand.ready:
            link = WorkerLink(self._fleet, hand.seen)
            send_blobs(link, self._blobs, silent)
            link.ask({"do": "trial", "trial": self._name, "files": self._files}, replies.Made)
            hand.ready = True
        asked = [list(positions) for positions in sets]
        told = self._fleet.call(hand.seen, measure, self._name, asked, hand.threads)
        error = replies.error_of(told, Target(host=hand.seen.name))
        if error is not None:
            raise error
        found = replies.check(_Measured, told, hand.seen.name).db
        if len(found) != len(sets):
            raise TargetError(f"{hand.seen.name} measured {len(found)} sets of {len(sets)}", do=replies.DISTRUST)
        return list(found)

    def end(self, hands: Sequence[Hand]) -> None:
        """Remove its files from the workers."""
        for hand in hands:
            if hand.seen is not None and hand.ready and not hand.lost:
                with contextlib.suppress(Lost, KeyboardInterrupt):
                    self._fleet.call(hand.seen, forget, self._name, alone=False)


@dataclass
class Share:
    """Pieces of work that several threads take and answer.

    Args:
        pieces: How many there are.
        workers: Threads that take them, and leave.
    """

    pieces: int
    workers: int
    _new: deque[int] = field(init=False)
    _taken: Counter[int] = field(default_factory=Counter)
    _done: dict[int, list[float]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._new = deque(range(self.pieces))

    def take(self) -> int | None:
        """A piece that nobody took, else one that the fewest took and nobody has answered; None: all are answered."""
        with self._changed:
            if self._new:
                number = self._new.popleft()
            else:
                left = [piece for piece in range(self.pieces) if piece not in self._done]
                if not left:
                    return None
                number = min(left, key=lambda piece: self._taken[piece])
            self._taken[number] += 1
            return number

    def put(self, number: int, found: list[float]) -> None:
        """Answer a piece; the first answer counts."""
        with self._changed:
            self._done.setdefault(number, found)
            self._changed.notify_all()

    def leave(self) -> None:
        """A thread takes no more."""
        with self._changed:
            self.workers -= 1
            self._changed.notify_all()

    def wait(self, number: int, going_on: Callable[[], None] = require_going_on) -> list[float] | None:
        """The answer to a piece, as soon as it is there; None where nobody is left who could give it."""
        with self._changed:
            while number not in self._done and self.workers > 0:
                going_on()
                self._changed.wait(POLL_S)
            return self._done.get(number)
