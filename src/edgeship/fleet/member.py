"""One model of a fleet, in a process of its own: ``python -m edgeship.fleet.member JOB``.

A model's code is imported under its own names here, and a crash ends no other model. What happens is told on standard
output, a JSON object a line; the last one is the outcome. A target that cannot go on is told by its label and left out:
the others come to their verdicts, with what they had finished.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from edgeship import pipeline
from edgeship.errors import EdgeshipError
from edgeship.fleet.config import load_fleet, member
from edgeship.results import Result, StageRun, read
from edgeship.standard_output import take_stdout
from edgeship.targets import link, wire
from edgeship.targets.cluster import Cluster, connected
from edgeship.targets.parent import end_with_stdin


class Job(Result):
    """What one model is shipped with."""

    fleet: Path
    run: str
    """The fleet run, as the history notes it."""
    model: str
    labels: tuple[str, ...]
    assigned: dict[str, tuple[str, ...]]
    """Label → workers, the preferred one first."""
    scheduler: dict[str, Any]
    """address, ca, cert, key, patience_s."""
    out: Path


def main(arguments: list[str]) -> int:
    """Ship one model; exit code 0 where it came to a verdict, else the error's."""
    with os.fdopen(take_stdout(), "w", encoding="utf-8") as writing:
        signal.signal(signal.SIGTERM, _interrupted)
        end_with_stdin()
        try:
            wire.say(writing, {"verdict": _ship(read(Job, Path(arguments[0])), writing)})
        except EdgeshipError as error:
            wire.say(writing, wire.describe(error) | {"stage": error.stage or "check"})
            return error.exit_code
        except KeyboardInterrupt:
            return 130
    return 0


def _interrupted(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    link.stop_all()
    raise KeyboardInterrupt


def _ship(job: Job, writing: TextIO) -> str:
    fleet = load_fleet(job.fleet, job.scheduler)
    access = fleet.access()
    assert access is not None
    cluster = Cluster(access, job.assigned, fleet.scheduler.patience_s)

    def progress(done: int, total: int | None, what: str) -> None:
        wire.say(writing, {"what": what, "done": done, "total": total})

    def stage(name: str, run: StageRun | None) -> None:
        wire.say(writing, {"began" if run is None else "ended": name})

    labels = job.labels
    with connected(cluster):
        while True:
            config = member(fleet, job.model, labels)
            history = config.history.model_copy(update={"fleet": job.run})
            try:
                finished = pipeline.ship(config.model_copy(update={"history": history}), job.out, progress, stage)
                break
            except EdgeshipError as error:
                others = tuple(label for label in labels if label not in error.targets)
                if not others or others == labels:
                    raise
                for label in error.targets:
                    wire.say(writing, wire.describe(error) | {"stage": error.stage or "check", "label": label})
                labels = others
    for note in (*finished.notes, *cluster.quarantined):
        wire.say(writing, {"note": note})
    return finished.result.verdict


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
