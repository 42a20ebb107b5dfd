"""One engine over several batch sizes: latency, throughput, and a drawing of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.config import Benchmark
from edgeship.data.feeds import batch_of, full_shapes, noise
from edgeship.engines import Runner
from edgeship.errors import DeviceError, UserInputError
from edgeship.files import storage_errors
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Latency, Result, TensorInfo, common_clock
from edgeship.trial.benchmark import benchmark

if TYPE_CHECKING:
    from edgeship.engines import Array

WIDTH, HEIGHT, MARGIN = 640, 300, 56


class Sweep(Result):
    """Latencies by batch. ``stopped`` says why larger batches are missing."""

    latencies: tuple[Latency, ...]
    stopped: str = ""
    feeds: str = ""
    """Where the inputs came from."""


def sweep(
    runner: Runner,
    batches: Sequence[int],
    settings: Benchmark,
    *,
    frames: Mapping[str, Array] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Sweep:
    """Measure an engine at each batch, smallest first; a batch that does not fit ends it.

    Args:
        runner: An open engine.
        batches: Sizes of the dynamic first axis. For an engine of a fixed batch, that one.
        settings: How long to measure each.
        frames: Real inputs, repeated or cut to each batch; None: seeded noise.
        shapes: Whole shapes of inputs with other dynamic axes.
        folder: Where ``latency.npz`` is written; for several batches in a folder ``batch-N`` each.
        progress: Told how many batches are done.

    Raises:
        DataError: The frames do not fit, or a shape is not known.
        UserInputError: A batch the engine's profile does not have.
        DeviceError: Even the smallest batch does not fit, or the device failed.
    """
    wanted = batches_for(runner.inputs, batches)
    done: list[Latency] = []
    stopped = ""
    for number, batch in enumerate(wanted):
        progress(number, len(wanted), f"batch {batch}")
        feeds = feeds_for(runner.inputs, batch, frames, shapes)
        try:
            place = folder_of(folder, batch, wanted)
            found = benchmark(runner, feeds, settings, folder=place)
            done.append(samples_below(found, place, folder))
        except DeviceError as error:
            if not done or "out of" not in error.found:
                raise
            stopped = error.found
            break
    progress(len(wanted), len(wanted), "done")
    source = "the frames that were given" if frames is not None else "seeded noise: fine for time, never for accuracy"
    return Sweep(latencies=tuple(done), stopped=stopped, feeds=source)


def folder_of(folder: Path | None, batch: int, batches: Sequence[int]) -> Path | None:
    """Where the samples of one batch are written: every one of several has a folder of its own."""
    if folder is None or len(batches) == 1:
        return folder
    place = folder / f"batch-{batch}"
    with storage_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


def samples_below(found: Latency, place: Path | None, folder: Path | None) -> Latency:
    """A latency whose samples in ``place`` are named from ``folder``."""
    if found.samples is None or place is None or folder is None or place == folder:
        return found
    return found.model_copy(update={"samples": Artifact.of(place / found.samples.path, folder)})


def batches_for(inputs: Sequence[TensorInfo], wanted: Sequence[int]) -> list[int]:
    """The batches to measure, smallest first. Raises UserInputError for one that the engine does not have."""
    batches = sorted(set(wanted))
    if any(batch < 1 for batch in batches):
        raise UserInputError(f"the batches {batches} hold one below 1", expected="1 or more")
    fixed = {info.shape[0] for info in inputs if info.shape and isinstance(info.shape[0], int)}
    dynamic = [info for info in inputs if info.shape and isinstance(info.shape[0], str)]
    if dynamic or not fixed:
        return batches
    only = max(size for size in fixed if isinstance(size, int))
    if batches not in ([only], [1]):
        raise UserInputError(
            f"the engine's batch is fixed at {only}, and {', '.join(map(str, batches))} was asked for",
            expected=f"--batches {only}, or an engine with a dynamic first axis",
        )
    return [only]


def feeds_for(
    inputs: Sequence[TensorInfo],
    batch: int,
    frames: Mapping[str, Array] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """One batch of input: real frames repeated or cut along the first axis, or seeded noise.

    Raises:
        DataError: An input has no frames, or an axis beside the first has no known size.
    """
    return batch_of(frames, inputs, batch) if frames is not None else noise(inputs, full_shapes(inputs, batch, shapes))


# --- drawing -------------------------------------------------------------------------------------------------


def plot_svg(found: Sweep, title: str) -> str:
    """Throughput and median latency over the batch as one self-contained SVG."""
    batches = [latency.batch for latency in found.latencies]
    clock = common_clock(found.latencies)
    times = [timed.quantiles.p50 for latency in found.latencies if (timed := latency.timed(clock)) is not None]
    rates = [latency.throughput for latency in found.latencies]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="20" font-size="14" fill="#222">{escape(title)}</text>',
    ]
    parts += _panel(batches, rates, MARGIN, "images a second (wall, with transfers)", "#1f6f8b")
    parts += _panel(batches, times, WIDTH // 2 + MARGIN, f"median latency, ms ({clock} time)", "#b5542b")
    return "\n".join([*parts, "</svg>", ""])


def _panel(batches: list[int], values: list[float], left: float, title: str, color: str) -> list[str]:
    width, top, bottom = WIDTH / 2 - MARGIN - 24, 64, HEIGHT - 40
    high = max(values) * 1.1

    def place(number: int) -> tuple[float, float]:
        across = number / max(len(batches) - 1, 1)
        return left + across * width, bottom - values[number] / high * (bottom - top)

    points = [place(number) for number in range(len(values))]
    parts = [
        f'<text x="{left}" y="44" fill="#444">{escape(title)}</text>',
        f'<path d="M{left} {top}V{bottom}H{left + width}" fill="none" stroke="#999"/>',
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{color}" '
        'stroke-width="2"/>',
    ]
    for (x, y), batch, value in zip(points, batches, values, strict=True):
        shown = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle" fill="#222">{shown}</text>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#444">{batch}</text>')
    parts.append(f'<text x="{left + width / 2:.1f}" y="{bottom + 32}" text-anchor="middle" fill="#444">batch</text>')
    return parts
