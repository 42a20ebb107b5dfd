"""KITTI: a text file for each image, ``type truncated occluded alpha x1 y1 x2 y2 …`` in pixels."""

from __future__ import annotations

from pathlib import Path

from edgeship.data.formats.common import Listing, finite, forwards, known_classes, label_files, lines_of
from edgeship.data.objects import Fixed, LabelledImage, Truth, class_position, pack
from edgeship.errors import DataError

DONT_CARE = "DontCare"
FIELDS = (15, 16)
"""Words of a line, without and with a score."""


def read(labels: Path, listing: Listing) -> Truth:
    """Read the label files of a folder. ``DontCare`` regions excuse detections of every class, as crowds do.

    Raises:
        DataError: A line of another form, or a class that is not one of the model's.
    """
    parsed = {key: _lines(path) for key, path in label_files(labels, ".txt").items()}
    kinds = [kind for rows in parsed.values() for _, kind, _ in rows if kind != DONT_CARE]
    classes, notes = known_classes(kinds, listing.classes)
    position = {name: number for number, name in enumerate(classes)}
    images, empty = [], 0
    for key, lines in parsed.items():
        rows = []
        for where, kind, box in lines:
            area = (box[2] - box[0]) * (box[3] - box[1])
            if box[2] <= box[0] or box[3] <= box[1]:
                empty += 1
            elif kind == DONT_CARE:
                rows += [(box, place, True, area) for place in range(len(classes))]
            else:
                rows.append((box, class_position(where, kind, position), False, area))
        name, found = listing.image(key), pack(rows)
        images.append(LabelledImage(name, found.labels[~found.crowd], Fixed(name, 0, 0, found)))
    if empty:
        notes = (*notes, f"{empty} boxes without area were left out of {labels}")
    return Truth("KITTI", tuple(images), classes, notes)


def _lines(path: Path) -> list[tuple[str, str, tuple[float, float, float, float]]]:
    found = []
    for where, words in lines_of(path):
        if len(words) not in FIELDS:
            raise DataError(
                f"{where}: {len(words)} words", expected="KITTI's 15: type truncated occluded alpha x1 y1 …"
            )
        x1, y1, x2, y2 = finite(where, words[4:8])
        forwards(where, (x1, y1, x2, y2))
        found.append((where, words[0], (x1, y1, x2, y2)))
    return found
