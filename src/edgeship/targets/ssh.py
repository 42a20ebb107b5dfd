"""Trials on another machine over the system's ``ssh``, with the user's own configuration, keys and known hosts.

The device needs edgeship's light install. Files go there once, by content. The trial runs there in a detached
process, so a dropped connection costs nothing: the next one picks up where it is. Results come back by hash, and
``trial.json`` is written here last.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgeship.config import Target
from edgeship.errors import TargetError
from edgeship.progress import Progress, silent
from edgeship.results import Trial, trial_folder
from edgeship.targets import replies, supervisor
from edgeship.targets.channel import MAX_REPLY_BYTES, Closed, Malformed
from edgeship.targets.collecting import collect
from edgeship.targets.link import REPLY_S, Link, borrowed, stop_trial, wait
from edgeship.targets.sending import Plan, plan_of, prepare

PATIENCE_S = 600.0
"""How long a device that was reached before may be away: it reboots, or the network fails."""
FRUITLESS = 5
"""How many connections in a row may be lost before anything was done over them."""
FIRST_PAUSE_S = 0.5
STEADY_S = 5.0
"""A connection that carried a running trial for so long was good for something."""
SILENCE_S = 12 * supervisor.ALIVE_S
"""Longest time without a word about a running trial."""
MAX_TRIAL_S = 7 * 86_400.0
"""Longest trial where ``candidates.timeout_s`` sets no limit."""
R = TypeVar("R")


def run(target: Target, folder: Path, progress: Progress = silent, *, timeout_s: float | None = None) -> Trial:
    """Run the trial in ``folder`` on ``target.host``.

    Raises:
        TargetError: The host cannot be reached, refuses us, lacks the light install, or answers what it should not.
        StorageError: No space left, here or there. Run again: it continues.
        EdgeshipError: What stopped the trial there and is not the candidate's fault.
    """
    finished = trial_folder.finished_for_spec(folder)
    if finished is not None:
        return finished
    plan = plan_of(folder)
    damaged: Counter[str] = Counter()
    deadline = time.monotonic() + supervisor.longest_s(timeout_s, MAX_TRIAL_S)

    def work(link: Link) -> Trial:
        prepare(link, plan, progress)
        _follow(link, plan, progress, timeout_s, deadline)
        return collect(link, plan, damaged, progress)

    try:
        return _persist(target, work, lambda: trial_folder.finished_for_spec(folder), progress)
    except KeyboardInterrupt:
        stop_trial(target, plan.trial)
        raise


def machine(target: Target, progress: Progress = silent) -> dict[str, Any]:
    """What trials on ``target.host`` are bound to, as the device says now. Raises TargetError as :func:`run` does."""

    def work(link: Link) -> dict[str, Any]:
        request = {"do": "machine", "engine": target.engine, "device": target.device, "via": target.via}
        told = link.ask(request, replies.MachineTold, wait_s=2 * REPLY_S).machine
        return told.model_dump(exclude_none=True) if told.reason is not None else told.model_dump(exclude={"reason"})

    return _persist(target, work, lambda: None, progress)


def _persist(target: Target, work: Callable[[Link], R], done: Callable[[], R | None], progress: Progress) -> R:
    """Do ``work`` over one connection, or over as many as it takes while they are good for something."""
    last_contact = time.monotonic()
    pause, fruitless = FIRST_PAUSE_S, 0
    while True:
        try:
            with borrowed(target) as link:
                try:
                    return work(link)
                finally:
                    fruitless += 1
                    if link.useful:
                        last_contact = time.monotonic()
                        pause, fruitless = FIRST_PAUSE_S, 0
        except Malformed as error:
            raise TargetError(
                f"{target.host} stopped speaking edgeship's own words: {error}",
                do="look at what its Python prints, then run the same command again: finished trials are kept",
            ) from None
        except Closed as error:
            finished = done()
            if finished is not None:
                return finished
            away = time.monotonic() - last_contact > PATIENCE_S
            if away or fruitless >= FRUITLESS:
                raise TargetError(
                    f"{target.host} has been away for {PATIENCE_S:g} s: {error}"
                    if away
                    else f"{target.host} lost {fruitless} connections in a row before anything was done: {error}",
                    do="bring it back and run the same command again: finished trials are kept, a running one goes on",
                ) from None
            progress(0, None, f"{target.host}: connection lost, trying again")
            wait(pause)
            pause = min(pause * 1.5, 10.0)


def _follow(link: Link, plan: Plan, progress: Progress, timeout_s: float | None, deadline: float) -> None:
    """Wait for the trial's end."""
    link.channel.send({"do": "follow", "trial": plan.trial, "timeout_s": timeout_s})
    begin = time.monotonic()
    while True:
        message = link.channel.receive(SILENCE_S, limit=MAX_REPLY_BYTES)
        if message is None:
            raise Closed(f"no word for {SILENCE_S:g} s")
        now = time.monotonic()
        if now > deadline:
            raise TargetError(
                f"{link.host} has not ended the trial in the longest time that one may take",
                do=f"look at {link.host}, then run the same command again; candidates.timeout_s sets the limit",
            )
        link.useful = link.useful or now - begin > STEADY_S
        link.raise_error(message)
        if "what" in message:
            step = replies.check(replies.Step, message, link.host)
            progress(step.done, step.total, f"{link.host}: {step.what}")
            continue
        ended = replies.check(replies.Followed, message, link.host)
        if ended.finished:
            return
        if ended.stopped:
            raise TargetError(f"the trial on {link.host} was stopped by another run", do="run the same command again")
