"""The history as a run reads it: whether it can be read, and what came before."""

from __future__ import annotations

from collections.abc import Sequence

from edgeship.config import Config
from edgeship.history.entry import digest_of
from edgeship.history.store import History
from edgeship.pipeline.stages import Run
from edgeship.results import Decision, EarlierRun
from edgeship.results.seal import read_seal

MOST = 30
"""Earlier runs that a report shows."""


def check_history(config: Config) -> None:
    """Refuse a history that cannot be read, before anything long begins.

    Raises:
        ArtifactError: Not a history, damaged, or of a later version.
        StorageError: Not to be opened.
    """
    if config.history.append:
        History(config.history.file).number_of("")


def earlier_runs(run: Run, decisions: Sequence[Decision]) -> tuple[EarlierRun, ...]:
    """What came before this run, on its targets; of a run that is in the history already, what came before it then."""
    if not run.config.history.append:
        return ()
    history = History(run.config.history.file)
    own = history.number_of(digest_of(run.config.title, run.config.model.version, decisions, seals_of(run)))
    found = history.entries(model=run.config.title, before=own, limit=MOST)
    names = {item.target_name for item in decisions}
    return tuple(item.earlier(target) for item in found for target in item.targets if target.name in names)


def seals_of(run: Run) -> list[str]:
    """The seals of all trials of the run's targets."""
    return [read_seal(folder).digest for trials in run.targets for folder in trials.folders()]
