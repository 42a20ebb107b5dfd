"""Engines of finished trials timed turn by turn on one machine: which is the fastest, and by how much.

Two engines measured one after the other differ by what the machine did meanwhile: the same engine twice "was 1.05 times
faster" in one of nine runs. Here their calls alternate in blocks, forwards and backwards (A B C C B A), so that a slow
change of the machine meets all of them alike, and each pair is compared within a round.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship import engines
from edgeship.config import Benchmark
from edgeship.data.feeds import batch_of
from edgeship.errors import ArtifactError, EdgeshipError, UserInputError
from edgeship.progress import Progress, silent
from edgeship.results import Turns, trial_folder, write
from edgeship.trial.load import load_between, read_counters
from edgeship.trial.run import frames_of, open_options, timed_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeship.engines import Timing

BLOCK_S = 0.02
"""How long one engine runs before the next takes its turn."""
MOST_CALLS = 200
"""Calls in one block at most: an engine of microseconds is not measured for longer than it needs."""
MIN_ROUNDS = 16
RESAMPLES = 4000
ERROR = 0.05
"""How often equal engines may be told apart."""
_MEDIAN_AT = {"wall": "wall_ms", "device": "device_ms"}


def time_turns(
    timers: Mapping[str, Callable[[], Timing]], settings: Benchmark, progress: Progress = silent, clock: str = "wall"
) -> Turns:
    """Time engines in turns until each one's time relative to the fastest is known, or the time is over.

    Args:
        timers: By name; each call is one inference.
        settings: ``warmup_s`` for each engine; ``min_s`` and ``max_s`` for all together; ``precision`` of the ratios.
        progress: Told how far the measurement is.
        clock: ``wall`` or ``device``.

    Raises:
        UserInputError: Fewer than two engines.
    """
    if len(timers) < 2:
        raise UserInputError(f"{len(timers)} engines cannot take turns", expected="two or more")
    names = tuple(timers)
    calls = {name: _calls(timer, settings.warmup_s) for name, timer in timers.items()}
    before = read_counters()
    begin = time.perf_counter()
    rounds: list[list[float]] = []
    while True:
        rounds.append(_round(timers, calls, clock))
        gone = time.perf_counter() - begin
        progress(min(int(100 * gone / settings.max_s), 99), 100, "taking turns")
        if len(rounds) < MIN_ROUNDS:
            continue
        over = gone >= settings.max_s
        if over or (gone >= settings.min_s and len(rounds) % 4 == 0):
            found = compare_rounds(names, np.array(rounds))
            if over or _known(found, settings.precision):
                break
    progress(100, 100, "taking turns")
    machine = load_between(before, read_counters())
    return found.model_copy(update={"clock": clock, "machine": machine, "seconds": time.perf_counter() - begin})


def compare_rounds(names: Sequence[str], rounds: NDArray[np.float64], seed: int = 0) -> Turns:
    """What rounds say: medians, and each engine's time over the fastest's with an interval.

    Rounds are resampled whole (block bootstrap): calls within one are not independent. The interval is that of the
    median of the rounds' ratios, so that a burst that meets one round moves nothing. Its level is such that equal
    engines are told apart in at most 5 % of comparisons, whichever pair looks worst (Bonferroni over the pairs, halved
    because the median of few rounds is bootstrapped).

    Args:
        names: Of the engines.
        rounds: Milliseconds [rounds, engines].
        seed: Of the resampling.
    """
    medians = np.median(rounds, axis=0)
    best = int(np.argmin(medians))
    logs = np.log(rounds) - np.log(rounds[:, best : best + 1])
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(rounds), (RESAMPLES, len(rounds)))
    spread = np.median(logs[picks], axis=1)
    widen = math.sqrt(len(rounds) / (len(rounds) - 1))
    centre = np.median(logs, axis=0)
    tail = ERROR / (len(names) * (len(names) - 1)) / 2
    low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
    bounds = np.stack([centre - (centre - low) * widen, centre + (high - centre) * widen])
    return Turns(
        names=tuple(names),
        median_ms=tuple(float(value) for value in medians),
        fastest=names[best],
        ratio=tuple(float(value) for value in np.exp(centre)),
        ratio_low=tuple(float(value) for value in np.exp(bounds[0])),
        ratio_high=tuple(float(value) for value in np.exp(bounds[1])),
        rounds_ms=tuple(tuple(float(value) for value in row) for row in rounds),
    )


def _known(found: Turns, precision: float) -> bool:
    """Whether every ratio is known to ``precision``, or surely above one."""
    return all(
        low > 1.0 + precision or (high - low) / 2 <= precision
        for low, high in zip(found.ratio_low, found.ratio_high, strict=True)
    )


def _calls(timer: Callable[[], Timing], warmup_s: float) -> int:
    """Warm an engine up and return how many of its calls fill a block."""
    begin = time.perf_counter()
    taken: list[float] = []
    while len(taken) < 3 or time.perf_counter() - begin < warmup_s:
        taken.append(timer().wall_ms)
    return int(min(max(math.ceil(BLOCK_S * 1e3 / max(float(np.median(taken)), 1e-6)), 1), MOST_CALLS))


def _round(timers: Mapping[str, Callable[[], Timing]], calls: Mapping[str, int], clock: str) -> list[float]:
    """One round, forwards and backwards: each engine's median over its two blocks."""
    names = list(timers)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in [*names, *reversed(names)]:
        timer = timers[name]
        timer()  # the caches are the last engine's
        for _ in range(calls[name]):
            value = getattr(timer(), _MEDIAN_AT[clock])
            taken[name].append(float(value))
    return [statistics.median(taken[name]) for name in names]


def turns_of_trials(folders: Sequence[Path], settings: Benchmark, progress: Progress = silent) -> Turns:
    """Open the engines of finished trials on this machine and time them in turns.

    Raises:
        ArtifactError: A folder holds no finished trial with an engine.
        EngineError: An engine does not open or run.
    """
    with ExitStack() as stack:
        timers: dict[str, Callable[[], Timing]] = {}
        device = True
        for folder in folders:
            spec, trial = trial_folder.read_spec(folder), trial_folder.read_trial(folder)
            built = trial.build
            if built is None or trial.latency is None:
                raise ArtifactError(f"the trial in {folder} has no engine that was timed", do="run ship again")
            path = trial_folder.verified(folder, built.engine)
            runner = stack.enter_context(engines.get(spec.target.engine).open(path, open_options(spec)))
            feeds = batch_of(frames_of(folder, spec, built), built.inputs, timed_batch(spec, built))
            timers[spec.candidate.name] = runner.timer(feeds)
            device = device and trial.latency.device_ms is not None
        return time_turns(timers, settings, progress, "device" if device else "wall")


def main(arguments: Sequence[str]) -> None:
    """Write the turns of the trials in ``arguments[1:]`` to ``arguments[0]``."""
    out, *folders = (Path(argument) for argument in arguments)
    settings = trial_folder.read_spec(folders[0]).benchmark or Benchmark()
    try:
        write(turns_of_trials(folders, settings), out)
    except EdgeshipError as error:
        raise SystemExit(str(error)) from None
