"""Whether neighbouring images change together, as frames of one video do, where the config names no groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.units import Units
from edgeship.metrics import paired

Floats = NDArray[np.float64]
LENGTHS = (2, 4, 8, 16, 32, 64)
"""Images in a block."""
SHUFFLES = 199
CHANCE = 0.01
"""How often independent images may be taken for frames of one video."""
CLEARLY_NOT = 1.5
"""Below so many standard errors of a normal variance nothing is shuffled: no length can turn out to be rare."""
FEWEST = 8
"""Blocks from which a variance is estimated."""


def by_neighbours(reference: Arrays, candidate: Arrays, units: Units) -> Units:
    """The units as they are, or blocks of neighbouring images where their changes go together.

    The variance of the sums of a block over that of independent images is compared with the same in shuffled order
    (a permutation test over all lengths at once). Copies and images that the config grouped are left as they are.
    """
    if not units.single or units.count < FEWEST * LENGTHS[0]:
        return units
    counted = units.member >= 0
    change = _changes(reference, candidate)[counted]
    length = block_length(change)
    if length == 1:
        return units
    member = np.full(len(counted), -1)
    member[counted] = np.arange(units.count) // length
    blocks = int(member.max()) + 1
    note = (
        f"neighbouring images change together, as frames of one video do: counted as {blocks} blocks of {length}; "
        "name the clips with evaluation.group"
    )
    return Units(member, blocks, "blocks of images", (*units.notes, note))


def block_length(change: Floats, seed: int = 0) -> int:
    """Images that belong together, from how changes of an image [images] go with those of the next; 1: none do."""
    lengths = [length for length in LENGTHS if len(change) >= FEWEST * length]
    values = change - change.mean()
    if not lengths or float(values @ values) <= 1e-12:
        return 1
    first = [(_ratio(values[None, :], length)[0] - 1) / (2 * length / len(values)) ** 0.5 for length in lengths]
    if max(first) < CLEARLY_NOT:
        return 1
    generator = np.random.default_rng(seed)
    rows = np.stack([values, *(generator.permutation(values) for _ in range(SHUFFLES))])
    ratios = np.stack([_ratio(rows, length) for length in lengths], axis=1)
    spread = ratios[1:].std(axis=0)
    usable = spread > 0
    if not usable.any():
        return 1
    excess = ((ratios - ratios[1:].mean(axis=0))[:, usable] / spread[usable]).max(axis=1)
    if float((excess[1:] >= excess[0]).mean()) > CHANCE:
        return 1
    return lengths[int(np.argmax(ratios[0]))]


def _ratio(rows: Floats, length: int) -> Floats:
    """Variance of the sums of blocks over that of as many independent images, for each row: [rows]."""
    blocks = rows.shape[1] // length
    sums = rows[:, : blocks * length].reshape(len(rows), blocks, length).sum(axis=2)
    found: Floats = (sums**2).mean(axis=1) / (length * (rows**2).mean(axis=1))
    return found


def _changes(reference: Arrays, candidate: Arrays) -> Floats:
    """What each image gained or lost; for a classifier less the mean of its class, which may stand in one folder."""
    if str(reference["task"]) != "classification":
        return paired.change(reference, candidate)
    label = reference["label"]
    right, was = ((item["top"][:, 0] == label).astype(np.float64) for item in (candidate, reference))
    names, place = np.unique(label, return_inverse=True)
    change = right - was
    mean = np.bincount(place, change, minlength=len(names)) / np.bincount(place, minlength=len(names))
    found: Floats = change - mean[place]
    return found
