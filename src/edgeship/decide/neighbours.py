"""Whether neighbouring images change together, as frames of one video do, where the config names no groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeship.decide.loaded_trial import Arrays
from edgeship.decide.units import Units
from edgeship.metrics import losses, paired, values
from edgeship.metrics.objects import of_objects

Floats = NDArray[np.float64]
LENGTHS = (2, 4, 8, 16, 32, 64)
"""Images in a block: each twice the last."""
SHUFFLES = 199
GLANCE, TOO_MANY = 39, 6
"""Of so many shuffles first, so many that exceed the order given: no more are made, chance is out of reach."""
CHANCE = 0.01
"""How often independent images may be taken for frames of one video."""
CLEARLY_NOT = 1.5
"""Below so many standard errors of a normal variance nothing is shuffled: no length can turn out to be rare."""
FEWEST = 8
"""Blocks from which a variance is estimated."""
FRAMES = 0.5
"""Correlation of the reference's answers on one image with those on the next from which images are taken for frames."""


def by_neighbours(reference: Arrays, candidate: Arrays, units: Units) -> Units:
    """The units as they are, or blocks of neighbouring images where their changes go together.

    The variance of the sums of a block over that of independent images is compared with the same in shuffled order
    (a permutation test over all lengths at once). Where nothing or little changed that tells nothing, so the
    reference's own answers are asked too: on frames of a video they resemble those on the next frame
    (:func:`video_length`). Copies and images that the config grouped are left as they are.
    """
    if not units.single or units.count < FEWEST * LENGTHS[0]:
        return units
    counted = units.member >= 0
    change = _changes(reference, candidate)[counted]
    length, seen = block_length(change), "neighbouring images change together"
    if length == 1:
        length, seen = video_length(_answers(reference)[counted]), "the reference answers alike on neighbouring images"
    if length == 1:
        return units
    member = np.full(len(counted), -1)
    member[counted] = np.arange(units.count) // length
    blocks = int(member.max()) + 1
    note = (
        f"{seen}, as on frames of one video: counted as {blocks} blocks of {length}; "
        "name the clips with evaluation.group"
    )
    return Units(member, blocks, "blocks of images", (*units.notes, note))


def block_length(change: Floats, seed: int = 0) -> int:
    """Images that belong together, from how changes of an image [images] go with those of the next; 1: none do."""
    lengths = [length for length in LENGTHS if len(change) >= FEWEST * length]
    values = change - change.mean()
    if not lengths or float(values @ values) <= 1e-12:
        return 1
    ratios = _ratios(values[None, :], len(lengths))
    if ((ratios[0] - 1) / np.sqrt(2 * np.array(lengths) / len(values))).max() < CLEARLY_NOT:
        return 1
    generator = np.random.default_rng(seed)
    for shuffles, allowed in ((GLANCE, TOO_MANY - 1), (SHUFFLES, CHANCE * SHUFFLES)):
        rows = np.stack([generator.permutation(values) for _ in range(shuffles + 1 - len(ratios))])
        ratios = np.concatenate([ratios, _ratios(rows, len(lengths))])
        if _exceeding(ratios) > allowed:
            return 1
    return lengths[int(np.argmax(ratios[0]))]


def video_length(answers: Floats) -> int:
    """Images that belong together, where each answer [images] resembles the next as on frames of a video; 1: none do.

    Their ranks correlate by :data:`FRAMES` at least and by four standard errors of independent ones.
    """
    lengths = [length for length in LENGTHS if len(answers) >= FEWEST * length]
    ranks = np.unique(answers, return_inverse=True)[1].astype(np.float64)
    ranks -= ranks.mean()
    if not lengths or float(ranks @ ranks) <= 1e-12:
        return 1
    if float(ranks[1:] @ ranks[:-1]) / float(ranks @ ranks) < max(FRAMES, 4 / np.sqrt(len(ranks))):
        return 1
    return lengths[int(np.argmax(_ratios(ranks[None, :], len(lengths))[0]))]


def _exceeding(ratios: Floats) -> int:
    """How many of the shuffled rows, all but the first, are at least as far from the usual as the first is."""
    spread = ratios[1:].std(axis=0)
    usable = spread > 0
    if not usable.any():
        return len(ratios)
    excess = ((ratios - ratios[1:].mean(axis=0))[:, usable] / spread[usable]).max(axis=1)
    return int((excess[1:] >= excess[0]).sum())


def _ratios(rows: Floats, doublings: int) -> Floats:
    """Variance of the sums of blocks of 2, 4, … over that of as many independent images: [rows, doublings]."""
    alone, sums = (rows[:1] ** 2).mean(), rows
    found = np.empty((len(rows), doublings))
    for place in range(doublings):
        pairs = sums.shape[1] // 2
        sums = sums[:, 0 : 2 * pairs : 2] + sums[:, 1 : 2 * pairs : 2]
        found[:, place] = np.einsum("ij,ij->i", sums, sums) / (pairs * 2 ** (place + 1) * alone)
    return found


def _changes(reference: Arrays, candidate: Arrays) -> Floats:
    """What each image gained or lost; for a classifier less the mean of its class, which may stand in one folder."""
    if str(reference["task"]) != "classification":
        return paired.change(reference, candidate)
    right, was = ((item["top"][:, 0] == reference["label"]).astype(np.float64) for item in (candidate, reference))
    return _within_classes(right - was, reference["label"])


def _answers(reference: Arrays) -> Floats:
    """How the reference did on each image: the score of its first answer, or how much of the image it has wrong."""
    task = str(reference["task"])
    if task == "classification":
        return _within_classes(reference["score"].astype(np.float64), reference["label"])
    named = values.names_in(reference)
    name = named[0] if named and task != "segmentation" and not of_objects(reference) else ""
    held, missed = losses.held(reference, name), losses.missed(reference, name)
    usual = missed.sum() / max(held.sum(), 1.0)
    share: Floats = np.divide(missed, held, out=np.full(len(held), usual), where=held > 0)
    return share


def _within_classes(numbers: Floats, label: NDArray[np.int32]) -> Floats:
    """The numbers of the images less the mean of their class."""
    names, place = np.unique(label, return_inverse=True)
    mean = np.bincount(place, numbers, minlength=len(names)) / np.bincount(place, minlength=len(names))
    found: Floats = numbers - mean[place]
    return found
