"""Class names: read, and compared with what the labels say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgeship.errors import DataError
from edgeship.files import read_text
from edgeship.text import did_you_mean

NUMBERED = re.compile(r"(\d+)\s*[:;,\t]\s*(.+)")
"""A line of a numbered list of class names: ``0: person``, ``0,person``."""


def read_classes(value: tuple[str, ...] | Path | None, *, symbols: bool = False) -> tuple[str, ...] | None:
    """Class names from the config: a list as it stands, or a text file with one name a line.

    ``symbols``: the file is a dictionary of characters, of which a space is one and nothing is trimmed.

    Raises:
        DataError: The file is absent, empty or not text, or a name stands twice.
    """
    if isinstance(value, Path):
        try:
            text = read_text(value)
        except (OSError, ValueError) as error:
            raise DataError(
                f"the class names {value} cannot be read: {error}",
                expected="a text file with one name a line",
                do="fix evaluation.classes",
            ) from None
        if symbols:
            names = tuple(line for line in text.replace("\r\n", "\n").split("\n") if line)
        else:
            names = _unnumbered(tuple(line.strip() for line in text.splitlines() if line.strip()))
        if not names:
            raise DataError(f"{value} holds no class names", expected="one name a line", do="fix evaluation.classes")
    elif value is None:
        return None
    else:
        names = tuple(value)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"class names that stand twice: {', '.join(twice[:5])}", do="give every class its own name")
    return names


def _unnumbered(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a list that is numbered from 0 in its order, as in ``0: person``; another list as it stands."""
    parts = [NUMBERED.fullmatch(name) for name in names]
    if all(part is not None and int(part[1]) == place for place, part in enumerate(parts)):
        return tuple(part[2].strip("'\"") for part in parts if part is not None)
    return names


def unknown_names(found: Iterable[str], known: Sequence[str]) -> str:
    """The names in ``found`` that are not known, with the nearest known one; empty when all are known."""
    valid = set(known)
    stray = [name for name in found if name not in valid]
    return "; ".join(did_you_mean(name, known) for name in stray[:5]) + (
        f"; and {len(stray) - 5} more" if len(stray) > 5 else ""
    )
