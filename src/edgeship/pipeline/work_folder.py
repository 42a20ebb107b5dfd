"""Whether a folder may become the work folder of a run: it is new, empty, or of an earlier run, and holds no data."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Config
from edgeship.data.reference import is_reference
from edgeship.errors import UserInputError

MARKS = ("stages", "trial")
"""Folders by which a work folder of ``ship`` or of ``rebuild`` is known."""
OWN = frozenset(
    {"frames", "lock", "hashes.json", "looks.json", "result.json", "report.html", "summary.md", "junit.xml", "bundle"}
)
"""What a run writes beside its marks: a killed run, or somebody who removed the stages, may have left these alone."""
NAMED = 3
"""Strange files that the error names."""


def require_own(folder: Path) -> None:
    """Refuse a folder that holds files which no run wrote.

    Raises:
        UserInputError: It holds something else than a run's own.
    """
    if not folder.is_dir() or any((folder / mark).is_dir() for mark in MARKS):
        return
    strange = sorted(
        path.name for path in folder.iterdir() if path.name not in OWN and not path.name.startswith((".", "bundle-"))
    )
    if strange:
        more = f" and {len(strange) - NAMED} more" if len(strange) > NAMED else ""
        raise UserInputError(
            f"the folder {folder} holds files that no run wrote: {', '.join(strange[:NAMED])}{more}",
            expected="a new or empty folder, or the work folder of an earlier run",
            do="give another place with --out; nothing was written",
        )


def require_apart(folder: Path, config: Config) -> None:
    """Refuse a work folder among the data of its own run: what the run writes would become its next input.

    Raises:
        UserInputError: It is a folder of images, labels or frames that the config names, or lies in one.
    """
    evaluation, calibration = config.evaluation, config.calibration
    for key, source in (
        ("evaluation.images", evaluation.images),
        ("evaluation.labels", evaluation.labels),
        ("calibration.images", calibration.images),
    ):
        if source is None or is_reference(source) or not source.is_dir():
            continue
        if folder.resolve().is_relative_to(source.resolve()):
            raise UserInputError(
                f"the work folder {folder} lies in {key} ({source}): what a run writes would become its next input",
                expected="a folder apart from the data",
                do="give another place with --out; nothing was written",
            )
