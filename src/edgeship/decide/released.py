"""The release in the field, as its bundle tells of it: the trial that it shipped with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeship.bundle.verify import Verified, opened
from edgeship.config import Gate
from edgeship.decide.drops import check_paired
from edgeship.decide.loaded_trial import Measured, load
from edgeship.errors import BundleError, DataError
from edgeship.results import trial_folder

STAGE = "release"
"""The stage of a run that keeps the release's trial."""
EVIDENCE = "evidence/candidate"
"""Where a bundle keeps the trial of its own engine."""
SHIP_IT_AGAIN = "run ship with the released model and these images and labels, and name the bundle that it writes"


def read_release(path: Path) -> Measured:
    """The trial that a bundle (a folder or a zip) shipped with, after the bundle was verified.

    Raises:
        BundleError: It is not a whole bundle, or holds no evaluation of its engine.
        ArtifactError: Its trial is of another schema version, or malformed.
    """
    require_there(path)
    with opened(path) as verified:
        return replace(released(verified, path), folder=None)


def require_there(path: Path) -> None:
    """Refuse a path with nothing at it, before it is called a broken bundle. Raises BundleError."""
    if not path.exists():
        raise BundleError(
            f"gate.baseline: nothing is at {path}",
            expected="the bundle of the release in the field, a folder or a zip",
            do="fix gate.baseline",
        )


def released(verified: Verified, path: Path) -> Measured:
    """The trial of a verified bundle's engine; ``path`` names the bundle in errors. Raises as :func:`read_release`."""
    folder = verified.folder / EVIDENCE
    if not (folder / trial_folder.TRIAL).is_file():
        raise BundleError(f"gate.baseline: {path} carries no trial of its engine", do=SHIP_IT_AGAIN)
    found = load(folder)
    if found.trial.evaluation is None or not found.records:
        raise BundleError(f"gate.baseline: the engine in {path} was not evaluated on labelled images", do=SHIP_IT_AGAIN)
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
