"""DOTA: a text file for each image, ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult`` in pixels, perhaps after two lines
``imagesource:…`` and ``gsd:…``. Source: the DOTA development kit's ``parse_dota_poly``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship.data import quads
from edgeship.data.formats.common import Listing, finite, known_classes, label_files, lines_of
from edgeship.data.objects import Fixed, LabelledImage, Truth, class_position, pack
from edgeship.errors import DataError

if TYPE_CHECKING:
    from edgeship.data.objects import Array

HEADERS = ("imagesource:", "gsd:")
EXPECTED = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult, in pixels, difficult 0 or 1"


def looks_so(words: Sequence[str]) -> bool:
    """Whether a line is one of DOTA's: eight numbers and a word, or a header."""
    if words[0].lower().startswith(HEADERS):
        return True
    return len(words) in (9, 10) and all(map(_is_number, words[:8])) and not _is_number(words[8])


def read(labels: Path, listing: Listing) -> Truth:
    """Read the label files of a folder. Difficult objects count nowhere, and what finds them neither.

    Raises:
        DataError: A line of another form, corners that cross, or a class that is not one of the model's.
    """
    parsed = {key: _lines(path) for key, path in label_files(labels, ".txt").items()}
    classes, notes = known_classes([name for rows in parsed.values() for _, name, _, _ in rows], listing.classes)
    position = {name: number for number, name in enumerate(classes)}
    images, empty = [], 0
    for key, lines in parsed.items():
        kept = [row for row in lines if not quads.flat(row[2])]
        empty += len(lines) - len(kept)
        corners = np.array([row[2] for row in kept], dtype=np.float64).reshape(-1, 4, 2)
        area, around = quads.areas(corners), quads.bounds(corners)
        rows = [
            (box, class_position(where, name, position), difficult, size)
            for (where, name, _, difficult), box, size in zip(kept, around, area, strict=True)
        ]
        name, found = listing.image(key), replace(pack(rows), corners=corners)
        images.append(LabelledImage(name, found.labels[~found.crowd], Fixed(name, 0, 0, found)))
    if empty:
        notes = (*notes, f"{empty} objects without area were left out of {labels}")
    return Truth("DOTA", tuple(images), classes, notes)


def _lines(path: Path) -> list[tuple[str, str, Array, bool]]:
    """Where, class, corners [4, 2] and whether it is difficult, of each object."""
    found = []
    for where, words in lines_of(path):
        if words[0].lower().startswith(HEADERS):
            continue
        if len(words) not in (9, 10) or words[9:] not in ([], ["0"], ["1"]):
            raise DataError(f"{where}: {' '.join(words)[:80]!r}", expected=EXPECTED, do="correct the line")
        corners = np.array(finite(where, words[:8]), dtype=np.float64).reshape(4, 2)
        if not quads.flat(corners) and not quads.convex(corners[None])[0]:
            raise DataError(
                f"{where}: the corners {' '.join(words[:8])} cross, or bend inwards",
                expected="four corners one after the other around the box",
                do="correct the line",
            )
        found.append((where, words[8], corners, words[9:] == ["1"]))
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
