"""The stage that times the model in PyTorch on a target of this machine, beside its engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Benchmark, Target, baselines_for
from edgeship.data.feeds import batch_size
from edgeship.errors import EngineError
from edgeship.pipeline.prepare import EXPORT, FRAMES, export_key
from edgeship.pipeline.stages import Run, Stage, dump, execute_one, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.prepare.baseline import open_baseline
from edgeship.prepare.model import import_torch, load
from edgeship.progress import Progress, silent
from edgeship.results import Baseline, Baselines, TensorInfo
from edgeship.trial.benchmark import benchmark
from edgeship.trial.sweep import feeds_for


def time_baselines(run: Run, trials: TargetTrials) -> None:
    """Time PyTorch on a target of this machine, where the config names baselines."""
    if run.config.benchmark.baseline and trials.target.host is None:
        execute_one(run, baseline_stage(trials.name, trials.target))


def baseline_stage(name: str, target: Target) -> Stage[Baselines]:
    """Time the config's baselines that the target's device can run, at the batch of the target's trials."""

    def key(run: Run) -> Any:
        return {
            "export": export_key(run),
            "names": _names(run, target),
            "target": target.model_dump(mode="json", include={"device", "threads", "batch", "shapes"}),
            "benchmark": run.config.benchmark.model_dump(mode="json", exclude={"baseline"}),
            "frames": dump(run.result(FRAMES)),
            "versions": versions("torch"),
        }

    def work(run: Run, folder: Path) -> Baselines:
        model = load(run.config.model, run.config.root)
        inputs = [TensorInfo(name=name, shape=spec.shape, dtype=spec.dtype) for name, spec in model.inputs.items()]
        feeds = _feeds(run, target, inputs)
        with _threads(target.threads):
            conditions = (target.device, run.config.benchmark)
            rows = measure_baselines(_names(run, target), model.module, [feeds], conditions, run.progress)
        return Baselines(device=target.device, torch=versions("torch").get("torch", ""), rows=rows)

    return Stage(f"baseline:{name}", Baselines, key, work)


def measure_baselines(
    names: Sequence[str],
    module: Any,
    batches: Sequence[dict[str, Any]],
    conditions: tuple[str, Benchmark],
    progress: Progress = silent,
) -> tuple[Baseline, ...]:
    """Time PyTorch. A baseline that PyTorch cannot make is listed with its reason.

    Args:
        names: Of :func:`edgeship.config.baselines_for`.
        module: The ``nn.Module``; it is copied.
        batches: Feeds of every input, in the order of its ``forward``.
        conditions: The device, ``"cpu"`` or ``"cuda:0"``, and how long to measure.
        progress: Told which baseline is timed.
    """
    device, settings = conditions
    rows = []
    for number, name in enumerate(names):
        progress(number, len(names), f"PyTorch {name}")
        with open_baseline(name, module, tuple(batches[0]), device) as runner:
            for feeds in batches:
                batch = max((array.shape[0] for array in feeds.values() if array.ndim), default=1)
                try:
                    rows.append(Baseline(name=name, batch=batch, latency=benchmark(runner, feeds, settings)))
                except EngineError as error:
                    rows.append(Baseline(name=name, batch=batch, failed=error.found))
    return tuple(rows)


def _names(run: Run, target: Target) -> list[str]:
    known = baselines_for(target.device)
    return [name for name in run.config.benchmark.baseline if name in known]


def _feeds(run: Run, target: Target, inputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """The trials' own frames at their batch, by the names of the model's inputs; noise where there are none."""
    renamed = run.result(EXPORT).renamed
    shapes = {info.name: target.shapes[name].opt for info in inputs if (name := _of(info, renamed)) in target.shapes}
    batch = run.config.benchmark.batch or (batch_size(inputs, shapes) if shapes else target.batch.opt)
    stored = run.result(FRAMES).arrays
    frames = None
    if stored is not None:
        with np.load(run.path(FRAMES, stored.path), allow_pickle=False) as arrays:
            found = {info.name: arrays[_of(info, renamed)] for info in inputs if _of(info, renamed) in arrays.files}
        frames = found if len(found) == len(inputs) else None
    return feeds_for(inputs, batch, frames, shapes)


def _of(info: TensorInfo, renamed: dict[str, str]) -> str:
    """An input's name in the exported graph."""
    return renamed.get(info.name, info.name)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let PyTorch use as many CPU threads as the target's engines; 0: its own choice."""
    torch = import_torch("the PyTorch baseline")
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
