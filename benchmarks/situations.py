"""Situations in which a gate may be fooled, as records of known truth, judged by the gate itself.

Each function draws one evaluation and says whether it ended in SHIP; ``true`` drops stand at the limit unless the name
says ``good``. ``false_ship.py`` counts them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.sequence import Spending
from edgeship.metrics import get
from edgeship.results import Audit, Candidate, Evaluated, Trial

Random = np.random.Generator
Records = dict[str, Any]
TEN = tuple(f"c{k}" for k in range(10))


def evaluated(name: str, records: Records, metric: str = "") -> Measured:
    """A trial that was evaluated and nothing else; ``metric`` alone is shown, since showing decides nothing."""
    summary = get(str(records["task"])).summarize(records)
    shown = {metric: summary.metrics[metric]} if metric in summary.metrics else {}
    evaluation = Evaluated(
        task=str(records["task"]), images=len(records["ids"]), images_sha256="", metrics=shown,
        examples=summary.examples, seconds=1, images_per_s=1,
    )  # fmt: skip
    audit = Audit(source="engine", asked="int8", layers={}, achieved=1.0)
    candidate = Candidate(name=name, precision="int8")
    trial = Trial(candidate=candidate, engine="onnxruntime", device="cpu", audit=audit, evaluation=evaluation)
    return Measured(trial, records=records)


def ships(gate: Gate, reference: Records, *candidates: Records) -> bool:
    """Whether the gate says SHIP. What lost more than the limit by its own figure fails, and is not judged further."""
    metric = next(iter({**gate.max_drop, **gate.min}), "")
    if metric == "top1" and gate.max_drop and _lost(reference, candidates) > gate.max_drop[metric] + 1e-9:
        return False
    items = [evaluated(f"int8-{k}", records, metric) for k, records in enumerate(candidates)]
    return judge(gate, items, evaluated("reference", reference, metric)).verdict == "SHIP"


def _lost(reference: Records, candidates: Sequence[Records]) -> float:
    """What the candidate that lost least of top-1 lost."""
    right = [float((item["top"][:, 0] == item["label"]).mean()) for item in (reference, *candidates)]
    return right[0] - max(right[1:])


@functools.cache
def _names(count: int) -> np.ndarray[Any, Any]:
    return np.array([f"{i:05}.png" for i in range(count)])


def names(count: int, **arrays: Any) -> Records:
    own = _names(count)
    return {"ids": own, "digests": own, **arrays}


def answers(correct: np.ndarray[Any, Any], label: np.ndarray[Any, Any], **arrays: Any) -> Records:
    """A classifier of ten classes that is right where ``correct`` says."""
    first = np.where(correct, label, (label + 1) % 10)
    top = np.stack([(first + step) % 10 for step in range(5)], axis=1).astype(np.int32)
    return {
        "task": np.array("classification"), "classes": np.array(TEN), "label": label.astype(np.int32), "top": top,
        "score": np.full(len(label), 0.9, np.float32), **names(len(label), **arrays),
    }  # fmt: skip


def numbers(values: np.ndarray[Any, Any]) -> Records:
    """A task of one's own with one number, ``m``."""
    return {"task": np.array("own:score"), "classes": np.array(["a"]), "value/m": values, **names(len(values))}


def pair(what: np.ndarray[Any, Any], label: np.ndarray[Any, Any], **arrays: Any) -> tuple[Records, Records]:
    """Reference and candidate: 0 lost, 1 gained, 2 both right."""
    return answers(what != 1, label, **arrays), answers(what != 0, label, **arrays)


def changes(random: Random, shape: Any, drop: float, gained: float = 0.005) -> np.ndarray[Any, Any]:
    """0 lost, 1 gained, 2 neither."""
    return random.choice(3, shape, p=[drop + gained, gained, 1 - drop - 2 * gained])


def clips(random: Random, drop: float, *, count: int, together: float, named: bool = True, alike: bool = True) -> bool:
    """Clips of 30 frames; with probability √together a frame does what its clip does. ``named``: evaluation.group.

    ``alike``: the scores of two frames of a clip correlate by 0.8, as on a video; else they tell nothing.
    """
    length, limit = 30, 0.02
    clip = np.repeat(changes(random, count, drop), length)
    own = changes(random, count * length, drop)
    what = np.where(random.random(count * length) < math.sqrt(together), clip, own)
    group = {"group": np.repeat(np.arange(count), length)} if named else {}
    if alike:
        level = np.repeat(random.normal(0, math.sqrt(0.8), count), length)
        noise = level + random.normal(0, math.sqrt(0.2), count * length)
        group["score"] = (1 / (1 + np.exp(-2 - noise))).astype(np.float32)
    return ships(Gate(max_drop={"top1": limit}), *pair(what, np.arange(count * length) % 10, **group))


def copies(random: Random, drop: float, *, times: int = 10, different: int = 300, limit: float = 0.02) -> bool:
    """Every picture stands in the set ``times`` times."""
    what = np.repeat(changes(random, different, drop), times)
    digests = np.repeat(np.array([f"{i:05}" for i in range(different)]), times)
    label = np.repeat(np.arange(different) % 10, times)
    return ships(Gate(max_drop={"top1": limit}), *pair(what, label, digests=digests))


def rare_failures(random: Random, drop: float, *, images: int, limit: float = 0.02) -> bool:
    """A number of one's own between 0 and 1 that fails by 0.8 in few images."""
    before = random.uniform(0.85, 0.95, images)
    after = before - np.where(random.random(images) < drop / 0.8, 0.8, random.normal(0, 0.002, images))
    return ships(Gate(max_drop={"m": limit}), numbers(before), numbers(after))


def smooth(random: Random, drop: float, *, images: int, unknown: float = 0.0, limit: float = 0.02) -> bool:
    """Every image loses a little; of a share ``unknown`` the reference has no number, and the candidate 0."""
    before = random.uniform(0.3, 0.7, images)
    after = before - random.normal(drop, 0.1, images)
    gone = random.random(images) < unknown
    return ships(
        Gate(max_drop={"m": limit}), numbers(np.where(gone, np.nan, before)), numbers(np.where(gone, 0, after))
    )


def _regions(random: Random, images: int, share: float, lost: float) -> tuple[Any, Any, Any]:
    """Pixels of five classes, the last in few images: labelled, and (right, seen) of both models."""
    rare = np.where(random.random((images, 1)) < share, 150, 0)
    labelled = np.concatenate([random.dirichlet(np.ones(4) * 2, images) * 4000, rare], axis=1).round()
    before = random.beta(2, 18, (images, 5))
    after = np.clip(before + random.normal(0, 0.01, (images, 5)), 0, 1)
    after[:, 4] = np.where(random.random(images) < lost, 1, after[:, 4])
    made = []
    for error in (before, after):
        right = (labelled * (1 - error)).round()
        wrong = (labelled - right).sum(axis=1)
        seen = right.copy()
        seen[:, 0] += wrong - (labelled - right)[:, 0]
        seen[:, 1] += (labelled - right)[:, 0]
        made.append((right.astype(int), seen.astype(int)))
    return labelled.astype(int), made[0], made[1]


_TRUE_IOU: dict[tuple[float, float], float] = {}


def rare_class(random: Random, drop: float, *, images: int = 200, holding: int) -> bool:
    """A critical class in about ``holding`` of the images, lost altogether in a share ``drop`` of them."""
    share = holding / images
    if (share, drop) not in _TRUE_IOU:
        many, one, other = _regions(np.random.default_rng(5), 200_000, share, drop)
        _TRUE_IOU[share, drop] = float(
            np.subtract(*(r[:, 4].sum() / (many + s - r)[:, 4].sum() for r, s in (one, other)))
        )
    labelled, one, other = _regions(random, images, share, drop)
    while not labelled[:, 4].any():
        labelled, one, other = _regions(random, images, share, drop)
    made = [
        {"task": np.array("segmentation"), "classes": np.array(TEN[:5]), "intersection": right, "predicted": seen,
         "labelled": labelled, "grid": np.zeros((images, 8, 8), np.int16), **names(images)}
        for right, seen in (one, other)
    ]  # fmt: skip
    return ships(Gate(critical={"c4": _TRUE_IOU[share, drop]}), *made)


def rare_in_a_mean(random: Random, drop: float, *, examples: int = 2, limit: float = 0.02) -> bool:
    """Mean recall of ten classes; one has few examples, and all of the drop is its."""
    label = np.concatenate([np.repeat(np.arange(9), 110), np.full(examples, 9)])
    wrong = (label == 9) & (random.random(len(label)) < 10 * drop)
    both = random.random(len(label)) > 0.05
    return ships(Gate(max_drop={"recall": limit}), answers(both, label), answers(both & ~wrong, label))


def plans(random: Random, drop: float, *, alike: float, count: int = 10, limit: float = 0.01) -> bool:
    """Many candidates, each of which truly loses ``drop``; with probability ``alike`` an image fares alike in all."""
    images = 1000
    gained = 0.005
    label = np.arange(images) % 10
    shared = random.random(images)
    right = random.random(images) > gained
    made = []
    for _ in range(count):
        own = np.where(random.random(images) < alike, shared, random.random(images))
        made.append(answers(~right | (own > (drop + gained) / (1 - gained)), label))
    return ships(Gate(max_drop={"top1": limit}), answers(right, label), *made)


def looks(random: Random, drop: float, *, sizes: tuple[int, ...] = (500, 1000, 2000), limit: float = 0.02) -> bool:
    """Images are added as long as the verdict is INCONCLUSIVE."""
    what = changes(random, sizes[-1], drop)
    for earlier, count in enumerate(sizes):
        before, after = pair(what[:count], np.arange(count) % 10)
        trials = evaluated("int8", after, "top1"), evaluated("reference", before, "top1")
        verdict = judge(Gate(max_drop={"top1": limit}), [trials[0]], trials[1], Spending(earlier=earlier)).verdict
        if verdict != "INCONCLUSIVE":
            return verdict == "SHIP"
    return False


def level(random: Random, drop: float, *, images: int = 500, least: float = 0.9) -> bool:
    """A floor under top-1: the engine truly reaches ``least`` at a drop of 0.02, and 0.02 more at none."""
    label = np.arange(images) % 10
    right = random.random(images) < least + 0.02
    after = right & (random.random(images) >= drop / (least + 0.02))
    return ships(Gate(min={"top1": least}), answers(right, label), answers(after, label))


def level_of_numbers(random: Random, drop: float, *, images: int, least: float = 0.85) -> bool:
    """A floor under a number of one's own that is 0.9 and fails to 0.1 in few images."""
    fails = random.random(images) < drop / 0.8
    after = np.where(fails, 0.1, random.uniform(0.89, 0.91, images))
    return ships(Gate(min={"m": least}), numbers(np.full(images, 0.9)), numbers(after))


def guessing(random: Random, drop: float, *, images: int = 500) -> bool:
    """A reference that guesses (``drop`` above 0) or is right in 8 of 10; the candidate answers as it does."""
    label = np.arange(images) % 10
    right = random.random(images) < (0.1 if drop else 0.8)
    before = answers(right, label)
    return ships(Gate(max_drop={"top1": 0.02}), before, {**before, "score": before["score"] * np.float32(0.99)})


def one(random: Random, drop: float, *, images: int = 1000, gained: float = 0.005, limit: float = 0.01) -> bool:
    """One candidate, independent images."""
    return ships(Gate(max_drop={"top1": limit}), *pair(changes(random, images, drop, gained), np.arange(images) % 10))


@dataclass(frozen=True)
class Situation:
    """A row: what is drawn, and the true drop at which SHIP is false."""

    name: str
    draw: Callable[[Random, float], bool]
    drop: float
    power: float | None = 0.0
    """The true drop at which SHIP is right; None: not asked."""
    promised: bool = True
    """Whether a false SHIP is promised to be rare; else the row shows what nothing in the records could tell."""


def _clips(count: int, together: float, named: bool, alike: bool = True) -> Situation:
    def draw(random: Random, drop: float) -> bool:
        return clips(random, drop, count=count, together=together, named=named, alike=alike)

    by = "with group" if named else "without group" if alike else "without group or likeness"
    return Situation(f"{count} clips of 30, correlation {together:g}, {by}", draw, 0.02, promised=alike)


def _rare(images: int) -> Situation:
    return Situation(
        f"rare failures by 0.8, {images} images", lambda random, drop: rare_failures(random, drop, images=images), 0.02
    )


def _level(images: int) -> Situation:
    return Situation(
        f"floor under a number that fails rarely, {images} images",
        lambda random, drop: level_of_numbers(random, drop, images=images),
        0.05,
    )


def _critical(holding: int) -> Situation:
    def draw(random: Random, drop: float) -> bool:
        return rare_class(random, drop, holding=holding)

    return Situation(f"critical IoU, class in {holding} of 200 images", draw, 0.3, None)


def _plans(alike: float) -> Situation:
    return Situation(f"ten candidates, alike {alike:g}", lambda random, drop: plans(random, drop, alike=alike), 0.01)


SITUATIONS = (
    *(_clips(count, together, True) for count in (40, 166, 400) for together in (0.1, 0.3, 0.7)),
    *(_clips(count, together, False) for count in (40, 166, 400) for together in (0.1, 0.3, 0.7)),
    *(_clips(40, together, False, False) for together in (0.1, 0.3, 0.7)),
    Situation("300 pictures, each ten times", copies, 0.02),
    *(_rare(images) for images in (20, 50, 100, 200)),
    Situation(
        "100 of 500 numbers unknown to the reference",
        lambda random, drop: smooth(random, drop, images=500, unknown=0.2),
        0.02,
    ),
    *(_critical(holding) for holding in (4, 10, 30)),
    Situation("mean recall, a class with two examples", rare_in_a_mean, 0.02),
    Situation(
        "mean recall, a class with thirty examples",
        lambda random, drop: rare_in_a_mean(random, drop, examples=30),
        0.02,
    ),
    *(_plans(alike) for alike in (0.0, 0.5, 0.9)),
    Situation("images added after INCONCLUSIVE, three looks", looks, 0.02),
    Situation("floor of 0.9 under top-1, 500 images", level, 0.02),
    *(_level(images) for images in (20, 50, 100)),
    Situation("a reference that guesses", guessing, 1.0),
    Situation("lossless INT8, limit 0.01", one, 0.01),
)
