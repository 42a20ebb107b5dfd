"""Trials on this machine, each in a process of its own: an engine that crashes fails its candidate, not the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeship.errors import EdgeshipError, EngineError, StageError, TargetError
from edgeship.files import storage_errors, write_text
from edgeship.progress import Progress, silent
from edgeship.results import Audit, Build, Consistency, Failure, Latency, Trial, Turns, read, trial_folder
from edgeship.results.trial_folder import AUDIT, BUILD, CONSISTENCY, LATENCY
from edgeship.targets import wire
from edgeship.text import line
from edgeship.trial.run import STEPS

RESTARTS = 2
"""How often a trial that was killed from outside is continued before it counts as failed."""
KILLED = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT}
TAIL_CHARS = 20_000
START = "import sys; sys.path[:] = sys.argv.pop(1).splitlines(); from edgeship.cli import main; main()"
"""What a trial process runs. It imports from where this process does, never from the folder it happens to be in."""
START_TURNS = START.partition("from edgeship")[0] + "from edgeship.trial.turns import main; main(sys.argv[1:])"


@dataclass
class _Ended:
    """How a trial process ended."""

    code: int
    error: EdgeshipError | None
    tail: str
    last: str
    """The step that it was at; empty: none yet."""
    overdue: bool


def run(
    folder: Path,
    progress: Progress = silent,
    *,
    timeout_s: float | None = None,
    stopped: threading.Event | None = None,
) -> Trial:
    """Run the trial in ``folder`` in a process of its own and wait for it.

    Args:
        folder: The trial's directory, with ``spec.json``.
        progress: Told what the trial process reports.
        timeout_s: Longest time for one attempt; None: no limit.
        stopped: Ends the trial when another thread sets it; what is done stays.

    Raises:
        TargetError: It was stopped.
        EdgeshipError: What stopped the trial process and is not the candidate's fault: wrong input, no space.
    """
    finished = trial_folder.finished_for_spec(folder)
    if finished is not None:
        return finished
    for attempt in range(RESTARTS + 1):
        ended = _attempt(folder, progress, timeout_s, stopped)
        if stopped is not None and stopped.is_set():
            raise TargetError("the trial was stopped", do="run the same command again: what is done is kept")
        if ended.error is not None:
            raise ended.error
        trial = trial_folder.finished_trial(folder)
        if ended.code == 0 and trial is not None:
            return trial
        killed = -ended.code in KILLED and not ended.overdue
        if not killed or attempt == RESTARTS:
            return _record_crash(folder, ended, timeout_s)
        progress(0, None, f"continuing after {_signal_name(ended.code)}")
    raise AssertionError("unreachable")


def _attempt(
    folder: Path, progress: Progress, timeout_s: float | None, stopped: threading.Event | None = None
) -> _Ended:
    """One process. It ends when this one does: its standard input is a pipe that we hold.

    It imports from wherever this one does (a config's folder, for ``module:callable``), and a fault leaves a traceback.
    """
    python = [sys.executable, "-c", START, "\n".join(filter(None, sys.path))]
    process = subprocess.Popen(
        [*python, "trial", str(folder.resolve()), "--json", "--end-with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=os.environ | {"EDGESHIP_DEBUG": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    overdue = threading.Event()
    tail: list[str] = []
    drain = threading.Thread(target=_drain, args=(process.stderr, tail), daemon=True)
    drain.start()
    timer = _deadline(process, timeout_s, overdue)
    if stopped is not None:
        threading.Thread(target=_end_when, args=(stopped, process), daemon=True).start()
    try:
        error, last = _listen(process.stdout, progress)
        code = process.wait()
    except BaseException:
        stop(process)
        raise
    finally:
        if timer is not None:
            timer.cancel()
        drain.join(timeout=5)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return _Ended(code, error, "".join(tail)[-TAIL_CHARS:], last, overdue.is_set())


def _listen(stream: IO[str], progress: Progress) -> tuple[EdgeshipError | None, str]:
    error: EdgeshipError | None = None
    last = ""
    for text in stream:
        message = wire.hear(text)
        error = wire.revive(message) or error
        step = str(message.get("what")).rpartition(": ")[2]
        last = step if step in STEPS else last
        wire.pass_on(message, progress)
    return error, last


def take_turns(folders: Sequence[Path], out: Path) -> Turns:
    """Time the engines of finished trials turn by turn, in a process of its own.

    Args:
        folders: Of the trials; the first one's spec says how long.
        out: Where the process writes its result.

    Raises:
        EngineError: An engine does not open or run, or the process died.
    """
    python = [sys.executable, "-c", START_TURNS, "\n".join(filter(None, sys.path))]
    places = [str(path.resolve()) for path in (out, *folders)]
    done = subprocess.run([*python, *places], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise EngineError(
            f"the engines could not be timed turn by turn: {last_line(done.stderr) or f'exit code {done.returncode}'}",
            do="run ship again; if it stays, build the candidates again",
        )
    return read(Turns, out)


def _drain(stream: IO[str], tail: list[str]) -> None:
    for text in stream:
        tail.append(text)
        del tail[:-200]


def _end_when(stopped: threading.Event, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if stopped.wait(0.1):
            stop(process)
            return


def _deadline(
    process: subprocess.Popen[str], timeout_s: float | None, overdue: threading.Event
) -> threading.Timer | None:
    if timeout_s is None:
        return None

    def fire() -> None:
        overdue.set()
        stop(process)

    timer = threading.Timer(timeout_s, fire)
    timer.daemon = True
    timer.start()
    return timer


def stop(process: subprocess.Popen[str], grace_s: float = 3.0) -> None:
    """End a process and everything in its session: first kindly, then surely."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + grace_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is not None and kind == signal.SIGKILL:
            break
    process.wait()


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _record_crash(folder: Path, ended: _Ended, timeout_s: float | None) -> Trial:
    """Write the trial that the dead process could not write.

    Raises:
        StageError: The process ended by itself: no engine killed it, so the fault is ours or that of what is installed,
            and no candidate is to blame.
    """
    last = f"; its last words: {last_line(ended.tail)}" if ended.tail.strip() else ""
    if last:
        last += f" (all of them: {trial_folder.LAST_WORDS})"
        with storage_errors(folder):
            write_text(folder / trial_folder.LAST_WORDS, ended.tail)
    if ended.overdue:
        message = f"not ended after {timeout_s:g} s, so it was stopped; raise candidates.timeout_s if it needs longer"
        kind = "Timeout"
    elif ended.code >= 0:
        raise StageError(
            f"the trial process ended with exit code {ended.code} and wrote no result{last}",
            do=f"read {folder / trial_folder.LAST_WORDS}, then run the same command again",
        )
    else:
        kind = "Crash"
        message = f"the trial process died of {_signal_name(ended.code)}"
        if ended.code == -signal.SIGKILL:
            message += f" {RESTARTS + 1} times; the system may be out of memory"
    spec = trial_folder.read_spec(folder)
    trial = Trial(
        candidate=spec.candidate,
        target_name=spec.target_name,
        engine=spec.target.engine,
        device=spec.target.device,
        rebuild=spec.rebuild,
        failure=Failure(stage=ended.last or "start", kind=kind, message=message + last),
    )
    return with_finished_steps(folder, trial)


def last_line(text: str, most: int = 300) -> str:
    """The last line that says something, without characters that would steer a terminal."""
    lines = [line(part) for part in text.splitlines()]
    last = next((part for part in reversed(lines) if part), "")
    return last if len(last) <= most else last[: most - 1] + "…"


def with_finished_steps(folder: Path, trial: Trial) -> Trial:
    """Add the steps that did finish, and write the trial down."""
    found: dict[str, object] = {}
    steps = (
        ("build", BUILD, Build),
        ("audit", AUDIT, Audit),
        ("consistency", CONSISTENCY, Consistency),
        ("latency", LATENCY, Latency),
    )
    for field, name, kind in steps:
        if (folder / name).is_file():
            found[field] = read(kind, folder / name)
    trial = trial.model_copy(update=found)
    trial_folder.write_trial(trial, folder)
    return trial
