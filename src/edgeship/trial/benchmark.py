"""The benchmark step of a trial: warm up by time, hold the load, then measure until the gated quantiles are known.

Wall time is the host's, from before the inputs are copied to after the outputs have arrived, the device drained.
Device time is what the engine reports from the device's own clock, transfers excluded. They are never mixed.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Benchmark as BenchmarkSettings
from edgeship.data.feeds import batch_size
from edgeship.engines import Runner, Timing
from edgeship.errors import DeviceError
from edgeship.files import peak_resident_mib, write_bytes
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Latency, Quantiles
from edgeship.results.separate_calls import BLOCKS, calls_needed, effective_calls
from edgeship.results.trial_folder import SAMPLES
from edgeship.trial.conditions import Watch, device_of
from edgeship.trial.load import load_between, read_counters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeship.engines import Feeds

    Samples = NDArray[np.float64]

_Z95, _Z99 = 1.959963984540054, 2.5758293035489004
SHORTEST = 3
"""Blocks of the shortest stretch that a step may end: a burst meets fewer."""
STEP_SIGMAS = 5.0
"""Standard errors from which a step is real; the largest of many places is looked at."""
PATIENCE = 2
"""How many times ``benchmark.max_s`` a gated p90 or p99 may take where the calls do not bound it yet."""
LEVELS = (0.5, 0.9, 0.99)
"""The quantiles that a rule can read."""
_MEASURES = ("wall_ms", "device_ms", "upload_ms", "download_ms")


def benchmark(
    runner: Runner,
    feeds: Feeds,
    settings: BenchmarkSettings,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
    watch: Watch | None = None,
    gated: Sequence[float] = (0.5,),
) -> Latency:
    """Measure one engine on one batch.

    Args:
        runner: An open engine.
        feeds: One batch of real input; its rows (:func:`batch_size`) are the batch that is reported.
        settings: How long to warm up and to measure.
        folder: Where ``latency.npz`` with every sample is written; None: nowhere.
        progress: Told how far the measurement is, in hundredths of what was asked for.
        watch: Reads clocks and power before, during and after; None: that of the runner's device.
        gated: The quantiles that a rule reads.

    Raises:
        DataError: The feeds do not fit the engine.
        DeviceError: The device failed, or ran out of memory.
    """
    watch = watch or Watch.of(runner)
    timer = runner.timer(feeds)
    batch = batch_size(runner.inputs, {name: array.shape for name, array in feeds.items()})
    begin = time.perf_counter()
    warmup_s = _warm_up(timer, settings.warmup_s)
    soak_s = _warm_up(timer, settings.soak_s) if settings.soak_s else 0.0
    before = read_counters()
    with watch:
        measurement = Measurement(timer, settings, tuple(gated))
        timings, unsettled = measurement.run(progress, watch.sample)
    machine = load_between(before, read_counters())
    samples = _columns(timings)
    quantiles_of = {name: quantiles(values) for name, values in samples.items()}
    wall = quantiles_of["wall_ms"]
    drift = fit_drift(samples["wall_ms"], settings.precision)
    return Latency(
        batch=batch,
        wall_ms=wall,
        device_ms=quantiles_of.get("device_ms"),
        upload_ms=quantiles_of.get("upload_ms"),
        download_ms=quantiles_of.get("download_ms"),
        throughput=batch * 1e3 / wall.p50,
        warmup_s=warmup_s,
        seconds=time.perf_counter() - begin,
        settled=not unsettled,
        unsettled=unsettled,
        answers=tuple(level for level in LEVELS if level in gated or not measurement.unbound(timings, (level,))),
        soak_s=soak_s,
        drift=drift.share,
        drift_sure=drift.sure,
        cuda_graph=timer.cuda_graph,
        no_graph=timer.no_graph,
        samples=_save(samples, folder) if folder is not None else None,
        conditions=watch.conditions().model_copy(update={"machine": machine}),
        peak_memory_mib=memory_mib(runner),
    )


def quantiles(samples: Samples | Sequence[float]) -> Quantiles:
    """Median, p90, p99 and the median's 95 % interval of milliseconds.

    Quantiles are the smallest sample that at least that share does not exceed (the inverse of the empirical
    distribution), so a p99 is a time that was really seen.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    p50, p90, p99 = (float(np.quantile(ordered, share, method="inverted_cdf")) for share in (0.5, 0.9, 0.99))
    return Quantiles(
        p50=p50,
        p90=p90,
        p99=p99,
        mean=float(ordered.mean()),
        min=float(ordered[0]),
        samples=int(ordered.size),
        interval=median_interval(ordered),
    )


def median_interval(ordered: Samples) -> tuple[float, float]:
    """The 95 % confidence interval of the median of sorted samples, from order statistics.

    The ranks are the binomial's, by its normal approximation rounded outwards (Conover, Practical Nonparametric
    Statistics, section 3.2); no distribution of the samples is assumed. Fewer than six samples give their range.
    """
    count = ordered.size
    reach = _Z95 * math.sqrt(count) / 2
    low = max(math.floor(count / 2 - reach), 0)
    high = min(math.ceil(count / 2 + reach), count - 1)
    return float(ordered[low]), float(ordered[high])


def memory_mib(runner: Runner) -> float | None:
    """Memory in use by this trial: of the device where the runner has one, else this process's peak resident size."""
    if device_of(runner).startswith("cuda"):
        from edgeship.engines import cuda

        try:
            free, total = cuda.memory()
        except DeviceError:
            return None
        return (total - free) / cuda.MIB
    return peak_resident_mib()


def _warm_up(timer: Callable[[], Timing], seconds: float) -> float:
    """Call until ``seconds`` have gone, at least three times, and return the seconds it took."""
    begin = time.perf_counter()
    calls = 0
    while calls < 3 or time.perf_counter() - begin < seconds:
        timer()
        calls += 1
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Measurement:
    """Calls of a timer until the gated quantiles are known, or the time is over."""

    timer: Callable[[], Timing]
    settings: BenchmarkSettings
    gated: tuple[float, ...]

    def run(self, progress: Progress, sample: Callable[[], None]) -> tuple[list[Timing], str]:
        """Timings, and why the gated quantiles are not known; empty when they are.

        They are looked at ten times in each doubling of the samples, so that looking costs nothing. A p90 or p99 that
        needs more calls than ``max_s`` allows gets up to :data:`PATIENCE` times as long.
        """
        settings = self.settings
        timings: list[Timing] = []
        begin = time.perf_counter()
        look, last = settings.min_samples, 0.0
        while True:
            timings.append(self.timer())
            gone = time.perf_counter() - begin
            if gone - last > 0.25:
                last = gone
                sample()
                progress(min(int(100 * gone / settings.min_s), 99), 100, "measuring")
            due = len(timings) >= look and gone >= settings.min_s
            if not due and gone < settings.max_s:
                continue
            look = len(timings) + max(len(timings) // 10, 1)
            unknown = self._median_unknown(timings)
            unbound = self.unbound(timings, self.gated)
            patience = PATIENCE if unbound and not unknown and max(self.gated) > 0.5 else 1
            over = gone >= settings.max_s * patience
            if over or not (unknown or unbound):
                progress(100, 100, "measuring")
                return timings, unknown or unbound

    def _median_unknown(self, timings: list[Timing]) -> str:
        """Why the medians of wall time and, where measured, device time are not known to ``settings.precision``."""
        settings = self.settings
        if len(timings) < settings.min_samples:
            return (
                f"{len(timings)} calls were made within {settings.max_s:g} s, fewer than the {settings.min_samples} of "
                "benchmark.min_samples; raise benchmark.max_s"
            )
        for name, ordered in self._ordered(timings):
            low, high = median_interval(ordered)
            if (high - low) / 2 > settings.precision * float(ordered[ordered.size // 2]):
                return (
                    f"the median of {name.removesuffix('_ms')} time lies between {low:.3g} and {high:.3g} ms after "
                    f"{len(timings)} calls, wider than ±{settings.precision:.0%}; raise benchmark.max_s or quiet the "
                    "machine"
                )
        return ""

    def unbound(self, timings: list[Timing], levels: Sequence[float]) -> str:
        """Why a quantile has no bound yet: the calls are too few, or were slow together in long stretches."""
        for level in levels:
            needed = calls_needed(level, len(timings))
            for name, _ in self._ordered(timings[:1]):
                values = np.asarray([getattr(timing, name) for timing in timings], np.float64)
                found = effective_calls(values, level)
                if found < needed:
                    clock = name.removesuffix("_ms")
                    return (
                        f"{len(timings)} calls tell as much about p{level * 100:g} of {clock} time as {found:.0f} "
                        f"separate ones, and {needed} are needed; raise benchmark.max_s or quiet the machine"
                    )
        return ""

    @staticmethod
    def _ordered(timings: list[Timing]) -> Iterator[tuple[str, Samples]]:
        for name in ("wall_ms", "device_ms"):
            values = [getattr(timing, name) for timing in timings]
            if values[0] is not None:
                yield name, np.sort(np.asarray(values, np.float64))


@dataclass(frozen=True)
class Drift:
    """How a series moves: from its first to its last value as a share of the median, and whether that is real."""

    share: float
    sure: bool


def fit_drift(values: Samples, least: float = 0.0) -> Drift:
    """A line through the medians of blocks (Theil and Sen), tested by Mann and Kendall at 99 %; or one step in them.

    A step shows no slope where it is early or late, so it is looked for beside the line. In the first or last eighth it
    cannot be told from a burst of other work.

    Args:
        values: In the order they were measured.
        least: A movement within this share is never sure.
    """
    count = min(BLOCKS, len(values) // 3)
    if count < 8:
        return Drift(0.0, sure=False)
    medians = np.array([np.median(block) for block in np.array_split(values, count)])
    first, second = np.triu_indices(count, 1)
    slopes = (medians[second] - medians[first]) / (second - first)
    share = float(np.median(slopes)) * (count - 1) / float(np.median(medians))
    score = abs(float(np.sign(slopes).sum())) - 1
    spread = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    line = Drift(share, sure=score / spread > _Z99 and abs(share) > least)
    step = _step(medians)
    return Drift(step, sure=True) if abs(step) > max(least, abs(line.share)) else line


def _step(medians: Samples) -> float:
    """The largest step between two stretches of blocks, as a share of the median of all; 0: none that is sure.

    Its size is compared with the noise of one block, which successive blocks tell (von Neumann, Annals of Mathematical
    Statistics 12:367-395, 1941).
    """
    count = len(medians)
    noise = 1.4826 * float(np.median(np.abs(np.diff(medians)))) / math.sqrt(2)
    best = 0.0
    for place in range(SHORTEST, count - SHORTEST + 1):
        step = float(np.median(medians[place:]) - np.median(medians[:place]))
        error = noise * math.sqrt(math.pi / 2 * (1 / place + 1 / (count - place)))
        if abs(step) > STEP_SIGMAS * error and abs(step) > abs(best):
            best = step
    return best / float(np.median(medians))


def _columns(timings: list[Timing]) -> dict[str, Samples]:
    columns = {}
    for name in _MEASURES:
        values = [getattr(timing, name) for timing in timings]
        if all(value is not None for value in values):
            columns[name] = np.asarray(values, np.float64)
    return columns


def _save(samples: dict[str, Samples], folder: Path) -> Artifact:
    stream = io.BytesIO()
    np.savez(stream, **samples)  # type: ignore[arg-type]
    write_bytes(folder / SAMPLES, stream.getvalue())
    return Artifact.of(folder / SAMPLES, folder)
