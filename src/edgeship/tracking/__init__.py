"""A finished run told to experiment trackers: MLflow, or any that a package offers by an entry point.

A tracker runs in a process of its own with a limit of time: one that is down, hangs or crashes fails no run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeship.config import Track
from edgeship.errors import UserInputError
from edgeship.files import write_json
from edgeship.plugins import TRACKERS, offered
from edgeship.text import did_you_mean, line
from edgeship.tracking.told import Told

LIMIT_S = 120.0
Tracker = Callable[[Told, str], None]
"""Takes a finished run, and where to tell it: what ``[track]`` says after the tracker's name."""
BUILT_IN = {"mlflow": "edgeship.tracking.to_mlflow:track"}


def known() -> dict[str, str]:
    """Every tracker by name, as ``module:callable``: the built-in ones and those of installed packages."""
    return offered(TRACKERS) | BUILT_IN


def check(settings: Track) -> None:
    """Refuse a tracker that is not installed, before anything long begins.

    Raises:
        UserInputError: There is no such tracker, or MLflow's store is a plain folder.
    """
    names = known()
    for name, where in settings.places().items():
        if name not in names:
            raise UserInputError(
                f"track: there is no tracker {did_you_mean(name, names)}",
                expected=f"one of {', '.join(names)}, or a package with an entry point in {TRACKERS!r}",
                do="install it, or correct [track]",
            )
        if name == "mlflow" and where.partition(":")[0] not in ("sqlite", "postgresql", "mysql", "http", "https"):
            raise UserInputError(
                f"track.mlflow = {where!r} is not a store that MLflow 3 takes",
                expected='"sqlite:///mlflow.db", or the address of a server, "http://host:5000"',
                do="correct track.mlflow",
            )


def tell(settings: Track, told: Told, root: Path, limit_s: float = LIMIT_S) -> Iterator[str]:
    """Tell every tracker of the config.

    Args:
        settings: The config's.
        told: The finished run.
        root: The folder that trackers start in: relative places are those of the config.
        limit_s: The longest time of each.

    Yields:
        What went wrong, one sentence for each tracker that failed.
    """
    names = known()
    for name, where in settings.places().items():
        with TemporaryDirectory(prefix="edgeship-track-") as folder:
            job = Path(folder) / "job.json"
            write_json(job, {"tracker": names[name], "where": where, "told": json.loads(told.model_dump_json())})
            command = [sys.executable, "-m", "edgeship.tracking.child", str(job)]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", cwd=root,
                    timeout=limit_s, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                yield f"the tracker {name} at {where} did not answer within {limit_s:g} s; the run is not there"
                continue
        if done.returncode:
            said = [line(part) for part in done.stderr.splitlines() if part.strip()]
            yield f"the tracker {name} at {where} failed: {said[-1][:300] if said else f'exit code {done.returncode}'}"
