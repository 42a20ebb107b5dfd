"""How long whole frames take, as the runtime does them: decode the image, preprocess, infer, decode the outputs.

Real frames of the evaluation set, from memory. Once as fast as they go, and, where a rate is asked for, once at that
pace: a frame that comes while the last one is still being worked on waits, and is late when it is not done before the
next one comes.
"""

from __future__ import annotations

import io
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Benchmark, Evaluation, Preprocess
from edgeship.data.beside import Beside, beside, require_declared
from edgeship.data.dataset import Dataset
from edgeship.data.datasets import open_dataset
from edgeship.data.feeds import batch_of
from edgeship.data.frames import spread
from edgeship.data.loader import feeds_of
from edgeship.data.memory import Memories
from edgeship.data.preprocess import apply, in_dtype, input_size, open_picture
from edgeship.decode.decoders import decode_all
from edgeship.decode.fitting import fitted
from edgeship.engines import Runner, Timing
from edgeship.files import write_bytes
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, FrameTimes
from edgeship.results.separate_calls import calls_needed
from edgeship.results.trial_folder import FRAME_SAMPLES
from edgeship.trial.benchmark import Measurement, quantiles
from edgeship.trial.load import load_between, read_counters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeship.data.preprocess import Geometry
    from edgeship.engines import Array

    Samples = NDArray[np.float64]

PARTS = ("image", "preprocess", "infer", "postprocess")
"""Decode the image's file; resize, crop and normalise; the engine; outputs to predictions."""
PATIENCE = 5
"""How many times ``benchmark.max_s`` frames may come at their rate, which no haste shortens."""
LEVEL = 0.99
PICTURES = 64
PICTURE_BYTES = 256 << 20
WARM = 5


@dataclass(frozen=True)
class FrameAsk:
    """What a frame is: the task, the preprocessing, how many images go in at once, and at what rate they come."""

    evaluation: Evaluation
    preprocess: Preprocess
    benchmark: Benchmark
    batch: int = 1
    classes: tuple[str, ...] = ()
    fps: float | None = None


def frame_times(runner: Runner, ask: FrameAsk, folder: Path, progress: Progress = silent) -> FrameTimes:
    """Time whole frames and write the samples.

    Args:
        runner: An open engine with one image input.
        ask: What a frame is.
        folder: Where the samples go: milliseconds, float64, one a frame, in order.
        progress: Told how far the measurement is, in hundredths.

    Raises:
        DataError: The images, or the outputs, do not fit.
        EngineError: The engine failed.
    """
    frame = _Frame.of(runner, ask)
    for _ in range(WARM):
        frame()
    frame.parts.clear()
    before = read_counters()
    _, unsettled = Measurement(frame, ask.benchmark, (0.5, LEVEL)).run(progress, lambda: None)
    parts = np.asarray(frame.parts, np.float64)
    late = np.empty(0)
    if ask.fps is not None:
        late = _paced(frame, ask.fps, ask.benchmark.max_s, progress)
    machine = load_between(before, read_counters())
    samples: dict[str, Samples] = {f"{name}_ms": parts[:, place] for place, name in enumerate(PARTS)}
    samples["total_ms"] = parts.sum(axis=1)
    if ask.fps is not None:
        samples["paced_ms"] = late
    return FrameTimes(
        batch=ask.batch,
        pictures=len(frame.pictures),
        from_files=any(picture.path for picture in frame.pictures),
        parts_ms={name: quantiles(samples[f"{name}_ms"]) for name in PARTS},
        total_ms=quantiles(samples["total_ms"]),
        unsettled=unsettled,
        fps=ask.fps,
        paced=len(late),
        missed=int((late > 1e3 / ask.fps).sum()) if ask.fps is not None else 0,
        machine=machine,
        samples=_save(samples, folder),
    )


@dataclass(frozen=True)
class _Picture:
    """An image in memory: a file as it is encoded, with its path, or an array as it is, with none."""

    id: str
    path: str
    content: Any


@dataclass
class _Frame:
    """One frame a call; ``parts`` gathers [image, preprocess, infer, postprocess] milliseconds of each."""

    runner: Runner
    ask: FrameAsk
    pictures: list[_Picture]
    name: str
    size: tuple[int, int]
    steps: Preprocess
    others: Beside
    memories: Memories
    names: tuple[str, ...] = ()
    parts: list[tuple[float, float, float, float]] = field(default_factory=list)
    place: int = 0

    @classmethod
    def of(cls, runner: Runner, ask: FrameAsk) -> _Frame:
        info = require_declared(runner.inputs, ask.preprocess)
        dataset = open_dataset(ask.evaluation, ask.classes)
        size, steps = input_size(info, ask.preprocess), in_dtype(ask.preprocess, info)
        pictures = _pictures(dataset)
        others = beside(runner.inputs, ask.preprocess, "evaluation", [picture.id for picture in pictures])
        memories = Memories(runner.inputs, ask.preprocess)
        frame = cls(runner, ask, pictures, info.name, size, steps, others, memories)
        outputs = frame.memories.take(runner.infer(frame.feeds()[0]))
        frame.names = fitted(dataset, ask.evaluation, outputs).classes
        frame.memories.reset()
        return frame

    def next(self) -> list[_Picture]:
        """The images of the next frame; a model with memory begins anew with the first of them."""
        if self.place == 0:
            self.memories.reset()
        chosen = [self.pictures[(self.place + row) % len(self.pictures)] for row in range(self.ask.batch)]
        self.place = (self.place + self.ask.batch) % len(self.pictures)
        return chosen

    def feeds(self) -> tuple[dict[str, Array], list[Geometry], int, int]:
        """The engine's input for the next frame, its geometries, and the moments before and between (ns)."""
        start = time.perf_counter_ns()
        images = [
            (picture.id, open_picture(picture.content, self.steps, picture.path) if picture.path else picture.content)
            for picture in self.next()
        ]
        opened = time.perf_counter_ns()
        made = [apply(image, self.steps, self.size) for _, image in images]
        rows = made[0][0][None] if len(made) == 1 else np.stack([array for array, _ in made])
        geometries = [geometry for _, geometry in made]
        values = [self.others(name, geometry) for (name, _), geometry in zip(images, geometries, strict=True)]
        feeds = feeds_of(self.runner.inputs, self.name, rows, values) | self.memories.feeds()
        return batch_of(feeds, self.runner.inputs, self.ask.batch), geometries, start, opened

    def __call__(self) -> Timing:
        feeds, geometries, start, opened = self.feeds()
        ready = time.perf_counter_ns()
        outputs = self.runner.infer(feeds)
        done = time.perf_counter_ns()
        decode_all(self.memories.take(outputs), geometries, self.ask.evaluation, self.names)
        end = time.perf_counter_ns()
        moments = (start, opened, ready, done, end)
        one, two, three, four = ((b - a) / 1e6 for a, b in itertools.pairwise(moments))
        self.parts.append((one, two, three, four))
        return Timing(wall_ms=(end - start) / 1e6)


def _pictures(dataset: Dataset) -> list[_Picture]:
    """Images spread over the evaluation set, in memory."""
    found: list[_Picture] = []
    left = PICTURE_BYTES
    chosen = set(spread(len(dataset.items), PICTURES))
    for place, item in enumerate(dataset.items):
        if place not in chosen:
            continue
        picture = item.picture()
        content = picture.read_bytes() if isinstance(picture, Path) else np.asarray(picture)
        left -= len(content) if isinstance(content, bytes) else content.nbytes
        if found and left < 0:
            break
        found.append(_Picture(item.id, str(picture) if isinstance(picture, Path) else "", content))
    return found


def _paced(frame: _Frame, fps: float, max_s: float, progress: Progress) -> Samples:
    """From the moment when each frame is due to its end, in milliseconds, at a rate."""
    count = max(1, min(calls_needed(LEVEL), int(fps * max_s * PATIENCE)))
    period = 1.0 / fps
    taken = np.empty(count)
    begin = time.perf_counter() + period
    for number in range(count):
        due = begin + number * period
        wait = due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        frame()
        taken[number] = (time.perf_counter() - due) * 1e3
        if number % max(count // 20, 1) == 0:
            progress(100 * number // count, 100, f"frames at {fps:g} a second")
    return taken


def _save(samples: dict[str, Samples], folder: Path) -> Artifact:
    stream = io.BytesIO()
    np.savez(stream, **samples)  # type: ignore[arg-type]
    write_bytes(folder / FRAME_SAMPLES, stream.getvalue())
    return Artifact.of(folder / FRAME_SAMPLES, folder)
