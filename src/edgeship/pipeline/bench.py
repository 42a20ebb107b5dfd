"""What ``edgeship bench`` measures: an engine in this process or by trtexec, and PyTorch beside it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship import engines
from edgeship.config import Benchmark, Config, EngineName, baselines_for
from edgeship.data.feeds import full_shapes
from edgeship.engines import OpenOptions
from edgeship.engines.inspect import describe, require_fit
from edgeship.engines.trt import trtexec
from edgeship.errors import UserInputError
from edgeship.pipeline.baseline import measure_baselines
from edgeship.prepare.model import load
from edgeship.progress import Progress
from edgeship.results import Baseline, TensorInfo
from edgeship.trial.benchmark import quantiles
from edgeship.trial.sweep import Sweep, batches_for, feeds_for, folder_of, samples_below, sweep


@dataclass(frozen=True)
class Job:
    """An engine file and how it is measured."""

    path: Path
    name: EngineName
    options: OpenOptions
    settings: Benchmark
    batches: list[int]
    frames: dict[str, Any] | None
    """Real inputs by name, each with a batch axis; None: noise."""
    shapes: dict[str, tuple[int, ...]]
    """The shape of inputs with dynamic axes beside the batch."""
    folder: Path | None
    """Where the samples of each batch are kept."""


def measure(job: Job, progress: Progress) -> Sweep:
    """Measure in this process. Raises as :func:`edgeship.trial.sweep.sweep` and the engine's ``open``."""
    if job.name != "onnxruntime":
        require_fit(job.path, job.options.device)
    begin = time.perf_counter()
    with engines.get(job.name).open(job.path, job.options) as runner:
        load_s = time.perf_counter() - begin
        found = sweep(
            runner,
            job.batches,
            job.settings,
            frames=job.frames,
            shapes=job.shapes,
            folder=job.folder,
            progress=progress,
        )
    rows = tuple(latency.model_copy(update={"load_s": load_s}) for latency in found.latencies)
    return Sweep(latencies=rows, stopped=found.stopped, feeds=found.feeds)


def measure_by_trtexec(job: Job, progress: Progress) -> Sweep:
    """Let trtexec measure.

    Raises:
        TargetError: There is none here.
        UserInputError: Another engine, or a batch that it does not have.
    """
    if job.name != "tensorrt":
        raise UserInputError(f"--via trtexec measures TensorRT engines, {job.path} is one of {job.name}")
    inputs = describe(job.path, job.options.plugins).inputs
    if not inputs:
        raise UserInputError(
            f"the inputs of {job.path} are not known here, so no batch can be asked of it",
            expected=f"{job.path.name}.json beside it, as edgeship build writes, or an engine that opens here",
            do="edgeship build MODEL.onnx --engine tensorrt --via trtexec, then bench what it writes",
        )
    dynamic = {info.name for info in inputs if any(isinstance(axis, str) for axis in info.shape)}
    wanted = batches_for(inputs, job.batches)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, batch in enumerate(wanted):
            progress(number, len(wanted), f"trtexec, batch {batch}")
            shapes = full_shapes(inputs, batch, job.shapes)
            asked = trtexec.Measure(
                {name: shape for name, shape in shapes.items() if name in dynamic},
                job.settings,
                batch=batch,
                cuda_graph=job.options.cuda_graph,
                device=job.options.device,
                plugins=job.options.plugins,
            )
            place = folder_of(job.folder, batch, wanted) or Path(scratch)
            rows.append(samples_below(trtexec.benchmark(job.path, asked, quantiles, place), place, job.folder))
    return Sweep(latencies=tuple(rows), feeds="trtexec's own random inputs")


def measure_torch(job: Job, config: Config, progress: Progress) -> tuple[Baseline, ...]:
    """PyTorch on the same shapes. A baseline that PyTorch cannot make is listed with its reason."""
    model = load(config.model, config.root)
    inputs = [TensorInfo(name=key, shape=spec.shape, dtype=spec.dtype) for key, spec in model.inputs.items()]
    batches = [feeds_for(inputs, batch, job.frames, job.shapes) for batch in job.batches]
    device = job.options.device
    return measure_baselines(baselines_for(device), model.module, batches, (device, job.settings), progress)
