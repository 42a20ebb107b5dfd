"""The last steps: the finished run becomes an entry of the history, and trackers are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeship import tracking
from edgeship.bundle.write import EVIDENCE_OF_TRIAL
from edgeship.decide.finished_run import FinishedRun
from edgeship.errors import EdgeshipError
from edgeship.files import read_bytes
from edgeship.history.entry import Evidence, entry_of
from edgeship.history.store import MAX_FILE_BYTES, History
from edgeship.pipeline.past import seals_of
from edgeship.pipeline.report import REPORT
from edgeship.pipeline.stages import Run, Step
from edgeship.results import Decision, RunResult
from edgeship.tracking.told import told_of


def remember(run: Run) -> None:
    """Append a finished run to the history. A history that cannot be written is noted and fails no run."""
    finished = run.result(REPORT)
    settings, result = run.config.history, finished.result
    if not settings.append:
        return
    try:
        trials = [item.trial for item in finished.trials]
        entry = entry_of(result, trials, seals_of(run), settings.fleet)
        History(settings.file).append(entry, tuple(_evidence(run, finished)))
    except EdgeshipError as error:
        run.notes.append(f"the run is not in the history: {error.found}")


def _evidence(run: Run, finished: FinishedRun) -> Iterator[Evidence]:
    """What a later run is compared with, of every target that ships."""
    for decision in finished.result.decisions:
        if decision.verdict != "SHIP":
            continue
        folder = finished.folder / _chosen(finished.result, decision)
        files = [folder / name for name in EVIDENCE_OF_TRIAL if (folder / name).is_file()]
        large = [path.name for path in files if path.stat().st_size > MAX_FILE_BYTES]
        if large:
            run.notes.append(
                f"the history keeps no trial of {decision.target_name}: {large[0]} has more than "
                f"{MAX_FILE_BYTES >> 20} MiB; name the bundle in gate.baseline"
            )
            continue
        yield from (Evidence(decision.target_name, path.name, _read(path)) for path in files)


def _read(path: Path) -> bytes:
    return read_bytes(path, MAX_FILE_BYTES)


def _chosen(result: RunResult, decision: Decision) -> str:
    place = (decision.target_name, decision.chosen)
    return next(item.folder for item in result.trials if (item.target_name, item.candidate) == place)


def track(run: Run) -> None:
    """Tell the trackers of the config; one that fails is noted."""
    finished, settings = run.result(REPORT), run.config.track
    if settings.places():
        told = told_of(finished.result, run.folder, settings.experiment, settings.register_as, settings.alias)
        run.notes += tracking.tell(settings, told, run.config.root)


REMEMBER = Step("history", remember)
TRACK = Step("track", track)
