"""What is independent of what: the unit of the statistics is an image, or a group of images that belong together."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeship.decide.loaded_trial import Arrays

Floats = NDArray[np.float64]
FEWEST = 3
"""Images in a folder that may be a clip."""
DENSE = 1.25
"""Frame numbers of a clip span at most so many times its frames."""


@dataclass(frozen=True)
class Units:
    """The unit of each image.

    ``member`` int64 [images]: 0 … ``count`` - 1, or -1 for a copy of an earlier image, which counts nowhere. ``word``
    names a unit in the plural; ``notes`` say what was found out about the images.
    """

    member: NDArray[np.int64]
    count: int
    word: str = "images"
    notes: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether every image that counts is a unit of its own."""
        return self.count == self.images

    @property
    def images(self) -> int:
        """Images that count."""
        return int((self.member >= 0).sum())

    @property
    def once(self) -> Floats:
        """Every image that counts once: float64 [1, images]."""
        return (self.member >= 0).astype(np.float64)[None, :]

    def spread(self, weights: Floats) -> Floats:
        """Weights of units [B, units] as weights of images [B, images]."""
        if self.single and len(self.member) == self.count:
            return weights
        found: Floats = np.where(self.member >= 0, weights[:, self.member], 0.0)
        return found

    def sums(self, values: Floats) -> Floats:
        """Sum of per-image values over each unit: float64 [units]."""
        counted = self.member >= 0
        found: Floats = np.bincount(self.member[counted], values[counted], minlength=self.count).astype(np.float64)
        return found


def units_of(records: Arrays) -> Units:
    """The units of evaluation records: by ``group`` where they hold one, copies counted once.

    ``group`` [images] names each image's group; ``copy_of`` [images] is the position of the first picture that looks
    the same (itself where there is none). Without ``copy_of`` equal ``digests`` are copies.
    """
    count = len(records["ids"])
    first = _first_of(records, count)
    copies = int((first != np.arange(count)).sum())
    notes = (
        [f"{copies} of {count} images are copies of others: {count - copies} differ, each counted once"]
        if copies
        else []
    )
    if "group" in records and len(records["group"]) == count:
        names, member = np.unique(np.asarray(records["group"]), return_inverse=True)
        kept = np.where(first == np.arange(count), member, -1)
        present = np.unique(kept[kept >= 0])
        notes.insert(0, f"{len(present)} groups of images")
        place = np.full(len(names), -1)
        place[present] = np.arange(len(present))
        return Units(np.where(kept >= 0, place[kept], -1), len(present), "groups", tuple(notes))
    kept = first == np.arange(count)
    clips = _clips(records)
    if clips is not None:
        names, member = np.unique(clips[kept], return_inverse=True)
        place = np.full(count, -1)
        place[kept] = member
        notes.insert(0, f"{len(names)} folders of images numbered like the frames of a clip; evaluation.group says it")
        return Units(place, len(names), "folders", tuple(notes))
    return Units(np.where(kept, np.cumsum(kept) - 1, -1), int(kept.sum()), notes=tuple(notes))


def _clips(records: Arrays) -> NDArray[np.str_] | None:
    """The folder of each image where folders look like clips; None where they do not.

    They do where there are several, each holds three images or more that are numbered without large gaps, and they are
    not the classes of a classifier.
    """
    if "group" in records:
        return None
    parts = [str(item).replace("\\", "/").rpartition("/") for item in records["ids"]]
    folders = np.array([folder for folder, _, _ in parts])
    names, member, sizes = np.unique(folders, return_inverse=True, return_counts=True)
    if len(names) < 2 or sizes.min() < FEWEST:
        return None
    found = [re.search(r"(\d+)\D*$", name.rpartition(".")[0] or name) for _, _, name in parts]
    if not all(found):
        return None
    label = records.get("label")
    if label is not None and all(len(np.unique(label[member == k])) == 1 for k in range(len(names))):
        return None
    numbers = np.array([int(item[1]) for item in found if item])
    spans = (numbers[member == k] for k in range(len(names)))
    gapless = [len(np.unique(part)) == len(part) and np.ptp(part) < DENSE * len(part) for part in spans]
    return folders if all(gapless) else None


def _first_of(records: Arrays, count: int) -> NDArray[np.int64]:
    """The position of the first image that is the same picture: int64 [images]."""
    if "copy_of" in records and len(records["copy_of"]) == count:
        return np.asarray(records["copy_of"], dtype=np.int64)
    if "digests" not in records or len(records["digests"]) != count:
        return np.arange(count)
    _, first, inverse = np.unique(np.asarray(records["digests"]), return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)
