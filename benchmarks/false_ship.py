"""How often does the gate say SHIP when it must not, and how often when it should?

Simulated evaluations, each judged by the code that the gate itself runs. For every metric kind: the rate of passing at
a true drop equal to the limit and above it (must be at most 5 % plus Monte Carlo error), and at a true drop of zero
(the power) against the number of images. Also the latency quantile bound, and the time of the gate's arithmetic.

    python benchmarks/false_ship.py [--evaluations 2000] [--seed 2027] [--json benchmarks/results/false_ship.json]

Work is cut into tasks of at most 400 evaluations, each with a generator of its own, whose seed comes from the figure's
name: the rates do not depend on how many processes share the work (``--workers``, default: one for each core) nor on
what else is drawn. Every figure is recorded as soon as it is there; ``--resume`` goes on after an interruption.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
from clock_situations import CLOCKS
from situations import SITUATIONS as ANSWERS

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.statistics import bootstrap_upper, leave_out, paired_p_value, quantile_upper, resampling
from edgeship.metrics import get
from edgeship.results import Audit, Candidate, Evaluated, Trial

SITUATIONS = (*ANSWERS, *CLOCKS)
CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
LIMIT = 0.02
Values = np.ndarray[Any, np.dtype[np.float64]]
"""Per-image losses, [images]."""


# --- exact: top-1 and recall of a class -------------------------------------------------------------------------


def exact(evaluations: int, images: int, drop: float, gained: float, random: np.random.Generator) -> float:
    """Share of evaluations that pass, with ``gained`` the probability that only the candidate is right."""
    rates = [gained + drop, gained, 1 - 2 * gained - drop]
    counts = random.multinomial(images, rates, evaluations)
    kinds, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    passed = 0
    for (lost, found), count in zip(kinds.tolist(), times.tolist(), strict=True):
        estimate = (lost - found) / images
        if estimate <= LIMIT and paired_p_value(lost, found, images, LIMIT) <= ALPHA:
            passed += count
    return passed / evaluations


# --- resampled: means over images, mIoU, mAP ---------------------------------------------------------------------

Population = Callable[[np.random.Generator, int, float], Values]


def smooth(random: np.random.Generator, images: int, drop: float) -> Values:
    """Every image loses a little: normal, standard deviation 0.1."""
    return random.normal(drop, 0.1, images)


def skewed(random: np.random.Generator, images: int, drop: float) -> Values:
    """Most images lose nothing; one in ten loses much (exponential), some win."""
    hit = random.random(images) < 0.1
    return np.where(hit, random.exponential(10 * (drop + 0.02), images), 0.0) - 0.02


def rare(random: np.random.Generator, images: int, drop: float) -> Values:
    """All of the drop sits in 4 % of the images, which fail altogether or by half."""
    size = random.choice([0.5, 1.0], images)
    return np.where(random.random(images) < drop / 0.75, size, 0.0)


def resampled(population: Population, evaluations: int, images: int, drop: float, random: np.random.Generator) -> float:
    """Share of evaluations that pass; the metric is the mean over images, as for a task of one's own."""
    passed = 0
    for seed, block in enumerate(_blocks(evaluations)):
        values = np.stack([population(random, images, drop) for _ in range(block)], axis=1)
        weights, jackknife = _weights(images, seed % SETS)
        passed += _passing(values.mean(axis=0), weights @ values / images, jackknife @ values / images, images, LIMIT)
    return passed / evaluations


SETS = 16
"""Sets of bootstrap weights, shared by all evaluations of one size."""
BLOCK = 25


def _blocks(evaluations: int) -> list[int]:
    """Sizes of the blocks of evaluations that are resampled with the same weights, in one matrix product."""
    return [min(BLOCK, evaluations - start) for start in range(0, evaluations, BLOCK)]


def _passing(estimates: Values, replicates: Values, influence: Values, images: int, limit: float) -> int:
    """How many of a block pass: ``replicates`` [B, evaluations], ``influence`` [G, evaluations]."""
    return sum(
        bootstrap_upper(estimate, replicates[:, k], influence[:, k], images, CONFIDENCE) <= limit
        for k, estimate in enumerate(estimates.tolist())
        if estimate <= limit
    )


_CACHE: dict[tuple[int, int], tuple[Values, Values]] = {}


def _weights(images: int, seed: int) -> tuple[Values, Values]:
    """Bootstrap and jackknife weights."""
    if (images, seed) not in _CACHE:
        if len(_CACHE) > SETS:
            _CACHE.clear()
        _CACHE[images, seed] = resampling(images, 1000, seed), leave_out(images)
    return _CACHE[images, seed]


def miou(evaluations: int, images: int, drop: float, random: np.random.Generator) -> float:
    """mIoU of five classes: ratios of sums over images, the candidate with more wrong pixels."""
    passed, truth = 0, _miou_population(drop)
    for seed, block in enumerate(_blocks(evaluations)):
        shape = (images, block, 5)
        shares = random.gamma(0.6, 1.0, shape) * 1000
        hard = random.beta(2, 8, shape)
        worse = np.minimum(hard + random.beta(1, 9, shape) * 10 * truth, 1)
        weights, jackknife = _weights(images, seed % SETS)
        estimates = (_miou(np.ones((1, images)), shares, hard) - _miou(np.ones((1, images)), shares, worse))[0]
        near = estimates <= LIMIT
        shares, hard, worse = shares[:, near], hard[:, near], worse[:, near]
        drops = [_miou(matrix, shares, hard) - _miou(matrix, shares, worse) for matrix in (weights, jackknife)]
        passed += _passing(estimates[near], drops[0], drops[1], images, LIMIT)
    return passed / evaluations


def _miou(weights: Values, shares: Values, wrong: Values) -> Values:
    """mIoU for each weighting [B] of each evaluation: intersection ``shares * (1 - wrong)``, union the same with plus.

    ``shares`` and ``wrong`` are [images, evaluations, classes]; returns [B, evaluations].
    """
    right, union = (
        (weights @ part.reshape(len(part), -1)).reshape(len(weights), *part.shape[1:])
        for part in (shares * (1 - wrong), shares * (1 + wrong))
    )
    mean: Values = (right / union).mean(axis=2)
    return mean


def _miou_population(drop: float) -> float:
    """The mean of ``extra`` that gives this drop of mIoU in the limit of many images (bisected on a large sample)."""
    if drop not in _MIOU:
        random = np.random.default_rng(99)
        count = 200_000
        shares = random.gamma(0.6, 1.0, (count, 1, 5)) * 1000
        hard = random.beta(2, 8, (count, 1, 5))
        unit = random.beta(1, 9, (count, 1, 5)) * 10
        one = np.ones((1, count))
        low, high = 0.0, 0.5
        for _ in range(30):
            middle = (low + high) / 2
            lost = _miou(one, shares, hard) - _miou(one, shares, np.minimum(hard + unit * middle, 1))
            low, high = (middle, high) if float(lost[0, 0]) < drop else (low, middle)
        _MIOU[drop] = (low + high) / 2
    return _MIOU[drop]


_MIOU: dict[float, float] = {}


class Scenes:
    """Detections whose average precision has a known drop: a large pool of images, from which evaluations draw.

    Each image holds a few objects of one class; a detector finds each with a probability that depends on the image,
    scores it, and adds false alarms. The candidate's scores are noisier, which costs average precision. The pool's
    own drop is the truth, and evaluations draw images from it with replacement. ``even``: the reference's scores are as
    noisy, independently, so that the two disagree and neither is better.
    """

    def __init__(self, noise: float, even: bool = False, pool: int = 20_000) -> None:
        random = np.random.default_rng(7)
        self.pool = pool
        objects = random.integers(0, 4, pool)
        image = np.repeat(np.arange(pool), objects)
        ease = random.beta(4, 1.5, pool)[image]
        found = random.random(len(image)) < ease
        alarms = np.repeat(np.arange(pool), random.poisson(0.8, pool))
        self.image = np.concatenate([image[found], alarms])
        self.true = np.concatenate([np.ones(int(found.sum())), np.zeros(len(alarms))])
        level = np.concatenate([2 * ease[found], np.full(len(alarms), 0.2)])
        score = random.normal(level, 0.6)
        candidate = score + random.normal(0, noise, len(score))
        reference = score + random.normal(0, noise, len(score)) if even else score
        self.orders = [np.argsort(-reference), np.argsort(-candidate)]
        self.objects = objects.astype(np.float64)
        self.drop = float(np.subtract(*(self._ap(order, np.ones((1, pool)))[0] for order in self.orders)))

    def _ap(self, order: np.ndarray[Any, Any], weights: Values) -> Values:
        """Average precision (area under the interpolated curve) for each weighting of the pool's images."""
        count = np.ascontiguousarray(weights.T)[self.image[order]]
        true = self.true[order] > 0
        seen = np.cumsum(count, axis=0)[true]
        found = count[true]
        precision = np.cumsum(found, axis=0) / np.maximum(seen, 1e-12)
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        area: Values = np.einsum("ij,ij->j", found, precision) / (weights @ self.objects)
        return area

    def passes(self, evaluations: int, images: int, limit: float, random: np.random.Generator) -> float:
        """Share of evaluations whose bound of the drop is within ``limit``."""
        passed = 0
        for start in range(evaluations):
            chosen = random.integers(0, self.pool, images)
            sample = self._sample(chosen)
            weights, jackknife = _weights(images, start % SETS)
            estimate = float(sample.drops(np.ones((1, images)))[0])
            if estimate <= limit:
                drops = [sample.drops(matrix) for matrix in (weights, jackknife)]
                passed += bootstrap_upper(estimate, drops[0], drops[1], images, CONFIDENCE) <= limit
        return passed / evaluations

    def _sample(self, chosen: np.ndarray[Any, Any]) -> Scenes:
        """The drawn images as a pool of their own."""
        if not hasattr(self, "_by_image"):
            by_image = np.argsort(self.image, kind="stable")
            bounds = np.searchsorted(self.image[by_image], np.arange(self.pool + 1))
            self._by_image = (by_image, bounds)
            self._ranks = [np.argsort(order) for order in self.orders]
        by_image, bounds = self._by_image
        lengths = bounds[chosen + 1] - bounds[chosen]
        starts = np.repeat(bounds[chosen] - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        items = by_image[starts + np.arange(int(lengths.sum()))]
        sample = object.__new__(Scenes)
        sample.pool = len(chosen)
        sample.image = np.repeat(np.arange(len(chosen)), lengths)
        sample.true = self.true[items]
        sample.orders = [np.argsort(rank[items], kind="stable") for rank in self._ranks]
        sample.objects = self.objects[chosen]
        return sample

    def drops(self, weights: Values) -> Values:
        """Drop of average precision for each weighting."""
        before, after = (self._ap(order, weights) for order in self.orders)
        return before - after


# --- latency -----------------------------------------------------------------------------------------------------


def tail(calls_of: tuple[int, float, float], evaluations: int, seed: np.random.SeedSequence) -> float:
    """Share of evaluations whose bound lies below the true quantile, for autocorrelated lognormal times.

    Args:
        calls_of: How many calls, the quantile, and the correlation of one call with the next.
        evaluations: How many are drawn.
        seed: Of the random numbers.
    """
    (calls, level, correlation), random, below = calls_of, np.random.default_rng(seed), 0
    true = math.exp(0.1 * _normal_quantile(level))
    for _ in range(evaluations):
        noise = random.normal(0, math.sqrt(1 - correlation**2), calls)
        state = np.empty(calls)
        value = random.normal()
        for i in range(calls):
            value = correlation * value + noise[i]
            state[i] = value
        below += quantile_upper(np.exp(0.1 * state), level, CONFIDENCE) < true
    return below / evaluations


def _normal_quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(level)


# --- the gate's arithmetic ---------------------------------------------------------------------------------------


def arithmetic(images: int = 10_000, classes: int = 100) -> float:
    """Seconds to judge one candidate: top-1, mean recall, every class critical."""
    random = np.random.default_rng(0)
    names = tuple(f"class{k}" for k in range(classes))
    label = np.arange(images, dtype=np.int32) % classes

    def trial(name: str, wrong: float) -> Measured:
        first = np.where(random.random(images) < wrong, (label + 1) % classes, label)
        top = np.stack([(first + step) % classes for step in range(5)], axis=1).astype(np.int32)
        records = {
            "task": np.array("classification"),
            "classes": np.array(names),
            "label": label,
            "top": top,
            "score": random.random(images).astype(np.float32),
            "ids": np.array([str(i) for i in range(images)]),
            "digests": np.array([str(i) for i in range(images)]),
        }
        summary = get("classification").summarize(records)
        evaluation = Evaluated(
            task="classification", images=images, images_sha256="", metrics=summary.metrics,
            per_class=summary.per_class, examples=summary.examples, seconds=1, images_per_s=1,
        )  # fmt: skip
        facts = Trial(
            candidate=Candidate(name=name, precision="int8"), engine="onnxruntime", device="cpu",
            audit=Audit(source="engine", asked="int8", layers={}, achieved=1.0), evaluation=evaluation,
        )  # fmt: skip
        return Measured(facts, records=records)

    reference, candidate = trial("reference", 0.2), trial("int8", 0.21)
    gate = Gate(max_drop={"top1": 0.02, "recall": 0.02}, critical=dict.fromkeys(names, 0.05), min_agreement=0.5)
    start = time.perf_counter()
    judge(gate, [candidate], reference)
    return time.perf_counter() - start


# --- the table ---------------------------------------------------------------------------------------------------

TASK = 400
"""Evaluations in one task: a whole number of blocks, and every set of bootstrap weights in turn."""
POPULATIONS: dict[str, Population] = {"mean, smooth": smooth, "mean, skewed": skewed, "mean, rare failures": rare}
FACTORS = (("at", 1.0), ("above", 1.5), ("zero", 0.0))
AP_NOISE = {"zero": (0.3, True), "at": (0.3, False), "above": (0.4, False)}
TAILS = tuple((calls, level, c) for level, calls in ((0.5, 200), (0.9, 300), (0.99, 1000)) for c in (0.0, 0.5))


@dataclass(frozen=True)
class Row:
    """One line of the table: what is drawn and how many images."""

    group: str
    kind: str
    images: int
    setting: float = 0.0


def rows(kinds: Sequence[str]) -> list[Row]:
    """The lines of the table."""
    found = [
        Row("exact", f"exact paired, {100 * gained:g} % gained", images, gained)
        for images in (200, 1000, 5000)
        for gained in (0.005, 0.03)
    ]
    found += [Row("mean", label, images) for label in POPULATIONS for images in (100, 300, 1000)]
    found += [Row("miou", "mIoU, 5 classes", images) for images in (100, 300, 1000)]
    found += [Row("ap", "average precision", images) for images in (100, 200, 500)]
    return [row for row in found if row.group in kinds]


@functools.cache
def scenes(name: str) -> Scenes:
    """The pool of a column of the table, made once in a process."""
    return Scenes(*AP_NOISE[name])


def passing(row: Row, name: str, factor: float, evaluations: int, seed: np.random.SeedSequence) -> float:
    """Share of ``evaluations`` of one row that pass at ``factor`` times the limit."""
    random = np.random.default_rng(seed)
    if row.group == "exact":
        return exact(evaluations, row.images, factor * LIMIT, row.setting, random)
    if row.group == "mean":
        return resampled(POPULATIONS[row.kind], evaluations, row.images, factor * LIMIT, random)
    if row.group == "miou":
        return miou(evaluations, row.images, factor * LIMIT, random)
    return scenes(name).passes(evaluations, row.images, scenes("at").drop, random)


@dataclass(frozen=True)
class Work:
    """One figure of the table: a column of a row, or a situation where SHIP is false or right.

    ``draw`` is called with a number of evaluations and a seed and returns the share of them that pass.
    """

    place: tuple[str, ...]
    draw: Callable[[int, np.random.SeedSequence], float]
    evaluations: int

    def tasks(self, seed: int) -> list[tuple[int, np.random.SeedSequence]]:
        """Evaluations and the seed of each part; they depend on nothing but the figure's own name."""
        sizes = [min(TASK, self.evaluations - start) for start in range(0, self.evaluations, TASK)]
        own = np.random.SeedSequence([seed, zlib.crc32("|".join(self.place).encode())])
        return list(zip(sizes, own.spawn(len(sizes)), strict=True))


def works(kinds: Sequence[str], evaluations: int, power: int) -> list[Work]:
    """Every figure that is asked for."""
    found = [
        Work(("rows", row.kind, str(row.images), name), functools.partial(passing, row, name, factor), evaluations)
        for row in rows(kinds)
        for name, factor in FACTORS
    ]
    found += [
        Work(("latency", str(level), str(calls), str(c)), functools.partial(tail, (calls, level, c)), evaluations)
        for calls, level, c in TAILS
        if "latency" in kinds
    ]
    found += [
        Work(("situations", row.name, at), functools.partial(situation, place, at), many)
        for place, row in enumerate(SITUATIONS)
        if ("situations" if place < len(ANSWERS) else "clocks") in kinds
        for at, many in (("false" if row.promised else "unpromised", evaluations), ("right", power))
        if at != "right" or row.power is not None
    ]
    return found


def run(wanted: Sequence[Work], found: dict[str, Any], options: argparse.Namespace, done: Callable[[], None]) -> None:
    """Add each figure to ``found`` as it is there, and say so; figures that are there already are kept.

    Raises:
        SystemExit: ``options.seconds`` have gone and figures are missing.
    """
    end = time.perf_counter() + options.seconds
    missing = [work for work in wanted if _read(found, work.place) is None]
    with ProcessPoolExecutor(options.workers) as pool:
        waiting = [
            (work, [(size, pool.submit(work.draw, size, own)) for size, own in work.tasks(options.seed)])
            for work in missing
        ]
        for work, parts in waiting:
            late = wait(
                [task for _, task in parts], None if math.isinf(end) else max(0.0, end - time.perf_counter())
            ).not_done
            if late:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"{options.seconds:g} s have gone; --resume goes on from what is recorded")
            rate = sum(size * task.result() for size, task in parts) / work.evaluations
            table = found
            for name in work.place[:-1]:
                table = table.setdefault(name, {})
            table[work.place[-1]] = rate
            mark = "TOO OFTEN" if work.place[-1] not in UNHELD and rate > found["allowed"] else ""
            print(f"{', '.join(work.place[1:]):<70} {rate:>8.4f}  {mark}", flush=True)
            done()


def _read(found: dict[str, Any], place: Sequence[str]) -> float | None:
    value: Any = found
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, float) else None


def situation(place: int, at: str, evaluations: int, seed: np.random.SeedSequence) -> float:
    """Share of SHIP in one situation, where it is false or where it is right."""
    row, random = SITUATIONS[place], np.random.default_rng(seed)
    drop = row.power if at == "right" else row.drop
    assert drop is not None
    return sum(row.draw(random, drop) for _ in range(evaluations)) / evaluations


UNHELD = ("zero", "right", "unpromised")
"""Columns that may pass often: SHIP is right there, or nothing in the records could tell that it is not."""
KINDS = ("arithmetic", "exact", "mean", "miou", "ap", "latency", "situations", "clocks")


def resumed(path: Path | None, machine: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The figures of an earlier part of the same run: same machine, same commit, same settings; else none."""
    if path is None or not path.is_file():
        return dict(settings)
    earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    facts = earlier.pop("machine")
    same = all(facts[name] == machine[name] for name in ("commit", "cpu", "isa", "cores"))
    return earlier if same and settings.items() <= earlier.items() else dict(settings)


def main() -> None:
    """Simulate, print the table, and record the run."""
    parser = harness.parser(__doc__)
    parser.add_argument("--evaluations", type=int, default=2000, help="0: only the time of the arithmetic")
    parser.add_argument("--power", type=int, default=500, help="evaluations of a situation where SHIP is right")
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep the figures that --json holds of this commit")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many; --resume goes on")
    options = parser.parse_args()
    before = harness.facts()
    settings = {
        "evaluations": options.evaluations, "power": options.power, "seed": options.seed, "limit": LIMIT,
        "allowed": ALPHA + 1.645 * math.sqrt(ALPHA * CONFIDENCE / max(options.evaluations, 1)),
    }  # fmt: skip
    found = resumed(options.json if options.resume else None, before, settings)
    if "arithmetic" in options.kinds:
        found["arithmetic_s"] = arithmetic()
        told = "gate over 10,000 images, 100 classes, all critical: s"
        found["targets"] = [harness.target(told, found["arithmetic_s"], 2.0)]
    if options.evaluations == 0:
        return
    start = time.perf_counter()
    earlier = found.get("seconds", 0.0)

    def done() -> None:
        found["seconds"] = earlier + time.perf_counter() - start
        harness.record(options.json, before, **found)

    run(works(options.kinds, options.evaluations, options.power), found, options, done)
    if "ap" in options.kinds:
        found["ap_true_drops"] = {name: scenes(name).drop for name in AP_NOISE}
    done()


if __name__ == "__main__":
    main()
