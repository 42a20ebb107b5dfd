"""Situations in which a clock may fool a gate: times of calls with a known truth, judged by the gate itself.

A drawn time is relative: the budget is what the engine truly takes in the long run, so every SHIP at ``drop`` 0 is
false; at a ``drop`` of -0.1 it takes a tenth less. ``false_ship.py`` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import lfilter
from situations import Random, Situation

from edgeship.config import Benchmark, Gate
from edgeship.decide.gate import Beside, judge
from edgeship.decide.loaded_trial import Measured
from edgeship.engines import Timing
from edgeship.results import Audit, Candidate, Latency, Trial
from edgeship.results.separate_calls import calls_needed, effective_calls
from edgeship.trial.benchmark import fit_drift, median_interval, quantiles
from edgeship.trial.turns import time_turns

SPREAD = 0.03
"""Standard deviation of the logarithm of one call's time."""
FEWEST = Benchmark().min_samples
CALLS, MOST = 1000, 20_000
"""Calls of one measurement, and those that it takes at most where a gated quantile needs more."""
PRECISION = 0.02
HOT = 1.4
"""How much longer a call takes once heat has lowered the clock."""
Times = np.ndarray[Any, np.dtype[np.float64]]


def noise(random: Random, calls: int) -> Times:
    """Times of a steady engine, relative to its median."""
    return np.exp(random.normal(0, SPREAD, calls))


def quantile(level: float) -> float:
    """The true quantile of :func:`noise`."""
    from statistics import NormalDist

    return math.exp(SPREAD * NormalDist().inv_cdf(level))


def measured(times: Callable[[int], Times], level: float, name: str = "int8", calls: int = CALLS) -> Measured:
    """A trial whose benchmark goes on until the gated quantile is known or the time is over, as a real one does."""
    values = times(MOST)
    count = calls
    while not (known := _known(values[:count], level)) and count < MOST:
        count = min(count + count // 10, MOST)
    values = values[:count]
    drift = fit_drift(values, PRECISION)
    wall = quantiles(values)
    latency = Latency(
        batch=1, wall_ms=wall, throughput=1e3 / wall.p50, warmup_s=0.5, seconds=float(values.sum()) / 1e3,
        settled=known, unsettled="" if known else "too few separate calls", drift=drift.share, drift_sure=drift.sure,
    )  # fmt: skip
    return trial(name, latency, values)


def _known(values: Times, level: float) -> bool:
    """Whether the benchmark stops here: the median within its precision, the gated quantile bound."""
    ordered = np.sort(values)
    low, high = median_interval(ordered)
    near = (high - low) / 2 <= PRECISION * float(ordered[len(ordered) // 2])
    return near and effective_calls(values, level) >= calls_needed(level, len(values))


def trial(name: str, latency: Latency, values: Times) -> Measured:
    """A trial that was timed and nothing else."""
    audit = Audit(source="engine", asked=name, layers={}, achieved=1.0)
    candidate = Candidate(name=name, precision=name)  # type: ignore[arg-type]
    facts = Trial(candidate=candidate, engine="onnxruntime", device="cpu", audit=audit, latency=latency)
    return Measured(facts, latency={"wall_ms": values})


def ships(item: Measured, **rules: float) -> bool:
    """Whether a gate of latency rules says SHIP."""
    return judge(Gate(**rules), [item], item).verdict == "SHIP"  # type: ignore[arg-type]


def soaked(random: Random, drop: float, *, level: float) -> bool:
    """The clock falls after a minute; ``benchmark.soak_s`` held the load longer than that."""
    item = measured(lambda calls: HOT * (1 + drop) * noise(random, calls), level)
    return ships(item, **{f"latency_p{100 * level:g}_ms": HOT * quantile(level)})


def step(random: Random, drop: float) -> bool:
    """The clock falls at some moment of the measurement, without a soak; the budget is short by the precision."""
    place = random.uniform(0.1, 0.875)

    def times(calls: int) -> Times:
        hot = np.where(np.arange(calls) < place * CALLS, 1.0, HOT)
        return hot * (1 + drop) * noise(random, calls)

    return ships(measured(times, 0.5), latency_p50_ms=HOT / (1 + PRECISION))


def warming(random: Random, drop: float) -> bool:
    """Calls take ever longer: by 30 % over the measurement, and as much again after it."""

    def times(calls: int) -> Times:
        return (1 + 0.3 * np.arange(calls) / CALLS) * (1 + drop) * noise(random, calls)

    return ships(measured(times, 0.5), latency_p50_ms=1.6)


def bursts(random: Random, drop: float, *, gap: int = 250, length: int = 12, level: float = 0.99) -> bool:
    """Bursts of calls that take twice as long, at random moments, ``gap`` calls apart in the mean: 4.6 % of all."""

    def times(calls: int) -> Times:
        slow = np.zeros(calls, dtype=bool)
        starts = np.cumsum(random.exponential(gap, 2 * calls // gap + 20)).astype(int)
        for start in starts[starts < calls]:
            slow[start : start + length] = True
        return np.where(slow, 2.0, 1.0) * (1 + drop) * noise(random, calls)

    share = 1 - math.exp(-length / gap)
    true = 2 * quantile(1 - (1 - level) / share)
    return ships(measured(times, level), **{f"latency_p{100 * level:g}_ms": true})


def alike(random: Random, drop: float, *, level: float, correlation: float) -> bool:
    """Calls that resemble those before them; the benchmark of a slow engine looks after a hundred, and goes on."""

    def times(calls: int) -> Times:
        own = random.normal(0, math.sqrt(1 - correlation**2), calls)
        own[0] = random.normal()
        return (1 + drop) * np.exp(SPREAD * lfilter([1.0], [1.0, -correlation], own))

    item = measured(times, level, calls=FEWEST)
    return ships(item, **{f"latency_p{100 * level:g}_ms": quantile(level)})


def stretches(random: Random, drop: float, *, level: float, slow: float = 0.3, length: float = 8) -> bool:
    """Other work comes and goes: three calls of ten, in stretches of eight, take half as long again."""

    def times(calls: int) -> Times:
        count = int(2 * calls / length) + 20
        lasting = np.stack([random.geometric(slow / (1 - slow) / length, count), random.geometric(1 / length, count)])
        state = np.repeat(np.tile([1.0, 1.5], count), lasting.T.ravel())
        start = random.integers(len(state) - calls)
        return (1 + drop) * state[start : start + calls] * noise(random, calls)

    item = measured(times, level, calls=FEWEST)
    return ships(item, **{f"latency_p{100 * level:g}_ms": _mixed(level, slow)})


def _mixed(level: float, slow: float) -> float:
    """The true quantile of :func:`stretches`: of two lognormal populations."""
    from statistics import NormalDist

    low, high = 0.5, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        share = sum(
            part * NormalDist(0, SPREAD).cdf(math.log(middle / base)) for part, base in ((1 - slow, 1.0), (slow, 1.5))
        )
        low, high = (middle, high) if share < level else (low, middle)
    return (low + high) / 2


@dataclass
class Machine:
    """A machine whose speed changes with its own time, in milliseconds of calls made."""

    random: Random
    speed: Callable[[float], float]
    now: float = 0.0

    def timer(self, base: float) -> Callable[[], Timing]:
        """An engine of ``base`` milliseconds on this machine."""

        def call() -> Timing:
            taken = base * self.speed(self.now) * math.exp(self.random.normal(0, SPREAD))
            self.now += taken
            return Timing(taken)

        return call


SPEEDS: dict[str, Callable[[float], float]] = {
    "a quiet machine": lambda _: 1.0,
    "a warming machine": lambda now: 1 + 0.3 * min(now / 1000, 3.0),
    "a thermal step": lambda now: 1.0 if now < 700 else HOT,
    "bursts": lambda now: 2.0 if now % 137 < 12 else 1.0,
}
QUICK = Benchmark(warmup_s=1e-4, min_s=1e-4, max_s=0.2, precision=PRECISION)


def twice(random: Random, drop: float, *, speed: Callable[[float], float]) -> bool:
    """The same engine twice, timed turn by turn: is one faster? A ``drop`` below 0: the second one is."""
    machine = Machine(random, speed)
    turns = time_turns({"fp32": machine.timer(1.0), "int8": machine.timer(1 + drop)}, QUICK)
    plain = [measured(lambda calls: noise(random, calls), 0.5, name) for name in ("fp32", "int8")]
    decision = judge(Gate(speedup_over_fp32=1.0), plain, plain[0], beside=Beside(turns=turns))
    (rule,) = (rule for rule in decision.judged[1].rules if rule.name == "speedup_over_fp32")
    return rule.outcome == "pass"


LEVELS = (0.5, 0.9, 0.99)


def _alike(level: float, correlation: float) -> Situation:
    def draw(random: Random, drop: float) -> bool:
        return alike(random, drop, level=level, correlation=correlation)

    return Situation(f"measured until known, correlation {correlation:g}, p{100 * level:g}", draw, 0.0, -0.1)


def _stretches(level: float) -> Situation:
    return Situation(
        f"measured until known, slow stretches, p{100 * level:g}",
        lambda random, drop: stretches(random, drop, level=level),
        0.0,
        -0.1,
    )


def _twice(name: str) -> Situation:
    def draw(random: Random, drop: float) -> bool:
        return twice(random, drop, speed=SPEEDS[name])

    return Situation(f"the same engine twice in turns, {name}", draw, 0.0, -0.05)


CLOCKS = (
    Situation("thermal step after a minute, soaked, p50", lambda r, drop: soaked(r, drop, level=0.5), 0.0, -0.1),
    Situation("thermal step after a minute, soaked, p99", lambda r, drop: soaked(r, drop, level=0.99), 0.0, -0.1),
    Situation("thermal step within the measurement, p50", step, 0.0, None),
    Situation("warming over the measurement and on, p50", warming, 0.0, None),
    Situation("bursts of twelve calls in 250, p99", bursts, 0.0, -0.1),
    *(_alike(level, correlation) for level in LEVELS for correlation in (0.0, 0.5, 0.9)),
    *(_stretches(level) for level in LEVELS),
    *(_twice(name) for name in SPEEDS),
)
