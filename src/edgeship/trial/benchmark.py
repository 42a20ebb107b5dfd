"""The benchmark step of a trial: warm up by time, then measure until the median is known.

Wall time is the host's, from before the inputs are copied to after the outputs have arrived, the device drained.
Device time is what the engine reports from the device's own clock, transfers excluded. They are never mixed.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship.config import Benchmark as BenchmarkSettings
from edgeship.engines import Runner, Timing
from edgeship.errors import DeviceError
from edgeship.files import peak_resident_mib, write_bytes
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Latency, Quantiles
from edgeship.results.trial_folder import SAMPLES
from edgeship.trial.conditions import Watch, device_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeship.engines import Feeds

    Samples = NDArray[np.float64]

_Z95 = 1.959963984540054
_MEASURES = ("wall_ms", "device_ms", "upload_ms", "download_ms")


def benchmark(
    runner: Runner,
    feeds: Feeds,
    settings: BenchmarkSettings,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
    watch: Watch | None = None,
) -> Latency:
    """Measure one engine on one batch.

    Args:
        runner: An open engine.
        feeds: One batch of real input; its largest first axis is the batch that is reported.
        settings: How long to warm up and to measure.
        folder: Where ``latency.npz`` with every sample is written; None: nowhere.
        progress: Told how far the measurement is, in hundredths of what was asked for.
        watch: Reads clocks and power before, during and after; None: that of the runner's device.

    Raises:
        DataError: The feeds do not fit the engine.
        DeviceError: The device failed, or ran out of memory.
    """
    watch = watch or Watch.of(runner)
    timer = runner.timer(feeds)
    batch = max((array.shape[0] for array in feeds.values() if array.ndim), default=1)
    begin = time.perf_counter()
    warmup_s = _warm_up(timer, settings.warmup_s)
    with watch:
        timings, settled = _measure(timer, settings, progress, watch.sample)
    samples = _columns(timings)
    quantiles_of = {name: quantiles(values) for name, values in samples.items()}
    wall = quantiles_of["wall_ms"]
    return Latency(
        batch=batch,
        wall_ms=wall,
        device_ms=quantiles_of.get("device_ms"),
        upload_ms=quantiles_of.get("upload_ms"),
        download_ms=quantiles_of.get("download_ms"),
        throughput=batch * 1e3 / wall.p50,
        warmup_s=warmup_s,
        seconds=time.perf_counter() - begin,
        settled=settled,
        cuda_graph=timer.cuda_graph,
        no_graph=timer.no_graph,
        samples=_save(samples, folder) if folder is not None else None,
        conditions=watch.conditions(),
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


def _measure(
    timer: Callable[[], Timing], settings: BenchmarkSettings, progress: Progress, sample: Callable[[], None]
) -> tuple[list[Timing], bool]:
    """Timings until the median is known, and whether it was before the time limit.

    The precision is looked at ten times in each doubling of the samples, so that looking costs nothing.
    """
    timings: list[Timing] = []
    begin = time.perf_counter()
    look, last = settings.min_samples, 0.0
    while True:
        timings.append(timer())
        gone = time.perf_counter() - begin
        if gone - last > 0.25:
            last = gone
            sample()
            progress(min(int(100 * gone / settings.min_s), 99), 100, "measuring")
        if gone >= settings.max_s:
            return timings, _known(timings, settings)
        if len(timings) >= look and gone >= settings.min_s:
            if _known(timings, settings):
                progress(100, 100, "measuring")
                return timings, True
            look = len(timings) + max(len(timings) // 10, 1)


def _known(timings: list[Timing], settings: BenchmarkSettings) -> bool:
    """Whether the medians of wall time and, where measured, device time are known to ``settings.precision``."""
    if len(timings) < settings.min_samples:
        return False
    for name in ("wall_ms", "device_ms"):
        values = [getattr(timing, name) for timing in timings]
        if values[0] is None:
            continue
        ordered = np.sort(np.asarray(values, np.float64))
        low, high = median_interval(ordered)
        if (high - low) / 2 > settings.precision * float(ordered[ordered.size // 2]):
            return False
    return True


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
