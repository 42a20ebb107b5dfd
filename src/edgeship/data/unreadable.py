"""Image files that cannot be read, found all at once before a long run meets the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeship.config import Preprocess
from edgeship.data.frames import spread
from edgeship.data.loader import default_workers
from edgeship.data.preprocess import CorruptImage, check_header, open_picture
from edgeship.errors import DataError

DECODED = 300
"""Files of a set that are decoded whole, spread over it; of the others the header is read."""
OPENED = 20_000
"""Files of a set that are looked at, spread over it."""
NAMED = 10
"""Files that the error names."""


def unreadable(paths: Sequence[Path], preprocess: Preprocess | None = None) -> tuple[CorruptImage, ...]:
    """What is wrong with the files of a set that cannot be read, in their order."""
    opened = [paths[place] for place in spread(len(paths), OPENED)]
    whole = {opened[place] for place in spread(len(opened), DECODED)}

    def fault(path: Path) -> CorruptImage | None:
        try:
            if path in whole:
                open_picture(path, preprocess)
            else:
                check_header(path, preprocess)
        except CorruptImage as error:
            return error
        return None

    with ThreadPoolExecutor(default_workers(), thread_name_prefix="edgeship-look") as pool:
        return tuple(error for error in pool.map(fault, opened) if error is not None)


def require_readable(
    key: str, paths: Sequence[Path], folder: Path, allowed: int, preprocess: Preprocess | None = None
) -> None:
    """Refuse a set with more unreadable images than allowed, and name them.

    Args:
        key: The setting that names the set, for instance ``evaluation.images``.
        paths: Its files.
        folder: Names are told relative to it where they lie in it.
        allowed: ``allow_corrupt`` of the set.
        preprocess: Declares the layout of raw dumps.

    Raises:
        DataError: There are more.
    """
    found = unreadable(paths, preprocess)
    if len(found) <= allowed:
        return
    told = [f"{_near(Path(error.name), folder)}: {error.reason}" for error in found[:NAMED]]
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    table = key.partition(".")[0]
    raise DataError(
        f"{key}: {len(found)} of {len(paths)} images cannot be read: {'; '.join(told)}{more}",
        expected=f"at most {allowed} ({table}.allow_corrupt)",
        do=f"replace or remove them, or raise {table}.allow_corrupt",
    )


def _near(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path
