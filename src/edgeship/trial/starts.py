"""From nothing to the first answer: how long a fresh process takes to load an engine and run it once.

Cold starts read the engine from the disk: its pages are dropped from the system's cache first, where the system allows
it. Warm ones find it in memory. Each start is a process of its own; the interpreter's start is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from edgeship.errors import EngineError
from edgeship.progress import Progress, silent
from edgeship.results import Build, Starts, read, trial_folder
from edgeship.standard_output import take_stdout

STARTS = 3
START = (
    "import sys; sys.path[:] = sys.argv.pop(1).splitlines(); from edgeship.trial.starts import main; main(sys.argv[1])"
)
TIMEOUT_S = 600


def starts(folder: Path, progress: Progress = silent) -> Starts:
    """Start the engine of a trial's folder a few times, cold and warm.

    Raises:
        EngineError: A start failed.
    """
    engine = folder / read(Build, folder / trial_folder.BUILD).engine.path
    cold, warm = [], []
    for number in range(STARTS):
        progress(number, STARTS, "starting the engine")
        dropped = _drop_from_cache(engine)
        cold.append(_start(folder))
        warm.append(_start(folder))
    return Starts(cold_ms=tuple(cold), warm_ms=tuple(warm), dropped=dropped)


def _drop_from_cache(path: Path) -> bool:
    """Ask the system to forget a file's pages; whether it has a way to be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as stream, contextlib.suppress(OSError):
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


def _start(folder: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", START, "\n".join(filter(None, sys.path)), str(folder.resolve())],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise EngineError(f"a fresh process could not load the engine and run it: {last[0][:300]}")
    return float(json.loads(done.stdout)["ms"])


def main(folder: str) -> None:
    """Load the engine of a trial's folder, run it once, and print the milliseconds."""
    from edgeship import engines
    from edgeship.data.feeds import batch_of
    from edgeship.trial.run import frames_of, open_options, timed_batch

    place, writing = Path(folder), take_stdout()
    spec, built = trial_folder.read_spec(place), read(Build, place / trial_folder.BUILD)
    feeds = batch_of(frames_of(place, spec, built), built.inputs, timed_batch(spec, built))
    begin = time.perf_counter()
    with engines.get(spec.target.engine).open(place / built.engine.path, open_options(spec)) as runner:
        runner.infer(feeds)
        taken = time.perf_counter() - begin
    os.write(writing, json.dumps({"ms": taken * 1e3}).encode())
