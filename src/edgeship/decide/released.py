"""The release in the field, as its bundle or the history tells of it: the trial that it shipped with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgeship.bundle.verify import opened
from edgeship.config import Config, Gate
from edgeship.decide.drops import check_paired
from edgeship.decide.loaded_trial import Measured, load
from edgeship.errors import ArtifactError, BundleError, DataError, UserInputError
from edgeship.files import storage_errors, write_bytes
from edgeship.history.entry import Entry
from edgeship.history.store import LAST, History
from edgeship.results import trial_folder

STAGE = "release"
"""The stage of a run that keeps the release's trial."""
EVIDENCE = "evidence/candidate"
"""Where a bundle keeps the trial of its own engine."""
SHIP_IT_AGAIN = "run ship with the released model and these images and labels, and name the bundle that it writes"


@dataclass(frozen=True)
class Release:
    """What ``gate.baseline`` names.

    Args:
        named: The bundle, ``last``, or ``history:12/target``.
        history: The history's file.
        model: The model that ``last`` is the last release of.
    """

    named: Path | str
    history: Path
    model: str

    @classmethod
    def of(cls, config: Config) -> Release | None:
        """The release that a config names; None: it names none."""
        baseline = config.gate.baseline
        return None if baseline is None else cls(baseline, config.history.file, config.title)

    @property
    def bundle(self) -> Path | None:
        """The bundle's path; None where an entry of the history is named."""
        return self.named if isinstance(self.named, Path) else None

    def kept(self) -> dict[str, bytes]:
        """The files of the trial that the named entry of the history shipped with.

        Raises:
            UserInputError: There is no such entry, or it did not ship.
            ArtifactError: The history cannot be read, or kept no evaluation of it.
        """
        history = History(self.history)
        entry, target = self._entry(history)
        files = history.evidence(entry.number, target)
        if trial_folder.TRIAL not in files:
            raise ArtifactError(
                f"gate.baseline: the history kept no trial of entry {entry.number} on {target}",
                do="name the bundle of that release",
            )
        return files

    def _entry(self, history: History) -> tuple[Entry, str]:
        """The entry and the target that it shipped on."""
        if self.named == LAST:
            found = history.last_shipped(self.model)
            if found is None:
                raise UserInputError(
                    f'gate.baseline = "last": no run of {self.model!r} in the history {self.history} ended in SHIP',
                    expected="a release to compare with",
                    do="ship once without gate.baseline, or name the bundle of the release in the field",
                )
            entry, target = found, ""
        else:
            number, _, target = str(self.named).partition(":")[2].partition("/")
            entry = history.entry(number)
        shipped = [item.name for item in entry.targets if item.verdict == "SHIP"]
        if (target and target not in shipped) or not shipped:
            where = f" on {target}" if target else ""
            raise UserInputError(
                f"gate.baseline: entry {entry.number} of the history did not ship{where}: {entry.verdict}",
                expected=f"a release: it shipped on {', '.join(shipped)}" if shipped else "an entry that shipped",
                do="edgeship history show",
            )
        return entry, target or shipped[0]

    @contextmanager
    def opened(self) -> Iterator[Measured]:
        """The trial that the release shipped with; its folder is there while the block lasts.

        Raises:
            BundleError: It is not a whole bundle, or holds no evaluation of its engine.
            ArtifactError: Its trial is of another schema version, or malformed.
            UserInputError: The history has no such release.
        """
        if self.bundle is not None:
            require_there(self.bundle)
            with opened(self.bundle) as verified:
                yield _evaluated(verified.folder / EVIDENCE, str(self.bundle))
            return
        files = self.kept()
        with tempfile.TemporaryDirectory(prefix="edgeship-release-") as name:
            folder = Path(name)
            for file, data in files.items():
                with storage_errors(folder):
                    write_bytes(folder / Path(file).name, data)
            yield _evaluated(folder, f"{self.named} of {self.history}")


def read_release(release: Release | Path) -> Measured:
    """The trial that a release, or a bundle's path, shipped with. Raises as :meth:`Release.opened` does."""
    named = Release(release, Path(), "") if isinstance(release, Path) else release
    with named.opened() as found:
        return replace(found, folder=None)


def require_there(path: Path) -> None:
    """Refuse a path with nothing at it, before it is called a broken bundle. Raises BundleError."""
    if not path.exists():
        raise BundleError(
            f"gate.baseline: nothing is at {path}",
            expected='the bundle of the release in the field, a folder or a zip; or "last", or "history:12"',
            do="fix gate.baseline",
        )


def _evaluated(folder: Path, where: str) -> Measured:
    """The trial in a folder; ``where`` names the release in errors."""
    if not (folder / trial_folder.TRIAL).is_file():
        raise BundleError(f"gate.baseline: {where} carries no trial of its engine", do=SHIP_IT_AGAIN)
    found = load(folder)
    if found.trial.evaluation is None or not found.records:
        raise BundleError(
            f"gate.baseline: the engine in {where} was not evaluated on labelled images", do=SHIP_IT_AGAIN
        )
    return found


def require_pairable(gate: Gate, reference: Measured, release: Measured) -> None:
    """Refuse to compare with a release that was evaluated on other images, with other labels or without a metric.

    Raises:
        DataError: What differs, and what to do.
    """
    try:
        check_paired(reference.records, release.records, "the release (gate.baseline)")
    except DataError as error:
        raise DataError(
            error.found, expected=error.expected, do=f"evaluate on its images, or {SHIP_IT_AGAIN}"
        ) from None
    ours, theirs = reference.trial.evaluation, release.trial.evaluation
    if ours is None or theirs is None:
        return
    unknown = [name for name in gate.max_drop if name in ours.metrics and name not in theirs.metrics]
    if unknown:
        raise DataError(
            f"the release (gate.baseline) has no figure for {', '.join(unknown)}, which gate.max_drop limits",
            expected=f"one of {', '.join(theirs.metrics)}",
            do=SHIP_IT_AGAIN,
        )
