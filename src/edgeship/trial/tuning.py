"""How a session runs on the CPU, chosen by time: a few choices take turns, and one that is surely faster is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeship.config import Benchmark
from edgeship.data.feeds import batch_of
from edgeship.engines import Timing, processor
from edgeship.engines.ort import engine
from edgeship.engines.ort.settings import OWN, Settings, mark
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Build, TrialSpec, Turns
from edgeship.trial.run import frames_of, open_options, timed_batch
from edgeship.trial.turns import time_turns

LENGTH = Benchmark(warmup_s=0.1, min_s=1.0, max_s=6.0, precision=0.01)
"""How long all choices together take turns."""


def choices(threads: int, cores: int) -> dict[str, Settings]:
    """The choices by the words that name them, onnxruntime's own first.

    Args:
        threads: Those that the config asks for; 0: none, so that their number is a choice too.
        cores: The cores that this process may use.
    """
    counts = () if threads else sorted({1, cores // 2} - {0, cores})
    return {
        "onnxruntime's own": OWN,
        **{f"{count} thread{'s' * (count > 1)}": replace(OWN, threads=count) for count in counts},
        "no spinning": replace(OWN, spinning=False),
        "no arena": replace(OWN, arena=False),
        "denormals as zero": replace(OWN, flush_denormals=True),
    }


def tuned(
    spec: TrialSpec, folder: Path, built: Build, progress: Progress = silent, length: Benchmark = LENGTH
) -> Build:
    """Time the choices on the built engine, and mark its file with one that is surely faster than onnxruntime's own.

    A choice whose outputs are not the very same is left out.

    Raises:
        EngineError, DataError: The engine does not run on the frames.
    """
    path = folder / built.engine.path
    feeds = batch_of(frames_of(folder, spec, built), built.inputs, timed_batch(spec, built))
    known = choices(spec.target.threads, processor.cores())
    timers: dict[str, Callable[[], Timing]] = {}
    other: list[str] = []
    with ExitStack() as stack:
        wanted = None
        for name, settings in known.items():
            runner = stack.enter_context(engine.open(path, replace(open_options(spec), session=settings)))
            answer = runner.infer(feeds)
            wanted = wanted if wanted is not None else answer
            if all(np.array_equal(answer[key], wanted[key], equal_nan=wanted[key].dtype.kind == "f") for key in wanted):
                timers[name] = runner.timer(feeds)
            else:
                other.append(name)
        turns = time_turns(timers, length, progress)
    chosen, said = choose(turns, other)
    if chosen == next(iter(known)):
        return built.model_copy(update={"notes": (*built.notes, said)})
    mark(path, known[chosen])
    return built.model_copy(update={"engine": Artifact.of(path, folder), "notes": (*built.notes, said)})


def choose(turns: Turns, other: list[str]) -> tuple[str, str]:
    """The choice that is kept and a sentence about all: the fastest, where onnxruntime's own is surely slower.

    Args:
        turns: Of the choices that give the same outputs; the first is onnxruntime's own.
        other: Those whose outputs differ.
    """
    own = turns.names[0]
    sure = turns.fastest != own and turns.ratio_low[0] > 1.0
    chosen = turns.fastest if sure else own
    times = ", ".join(f"{name} {value:.3g} ms" for name, value in zip(turns.names, turns.median_ms, strict=True))
    left = f"; not timed, since the outputs differ: {', '.join(other)}" if other else ""
    why = f"{own} is {turns.ratio[0]:.3f} times as slow" if sure else "none is surely faster"
    return chosen, f"session: {chosen} ({why}; turn by turn: {times}{left})"
