"""``bench``: latency and throughput of an engine, alone or beside PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli import app
from edgeship.cli.engine import PLUGIN
from edgeship.cli.output import JSON_OPTION, emit, progress_bar

if TYPE_CHECKING:
    from rich.console import Console

    from edgeship.config import Benchmark, EngineName
    from edgeship.engines import OpenOptions
    from edgeship.progress import Progress
    from edgeship.results import Latency
    from edgeship.trial.sweep import Sweep


@app.command()
def bench(
    engine: Path = typer.Argument(help="The engine file, or an ONNX file for onnxruntime."),
    device: str = typer.Option("", help="cpu | cuda:0 (default: cpu for onnxruntime, else cuda:0)."),
    batches: str = typer.Option("1", help="Batch sizes: 1,2,4,8,16."),
    frames: Path | None = typer.Option(None, help=".npz with real inputs, one array for each (default: noise)."),
    shapes: list[str] = typer.Option(
        [], "--shape", help="name=1x3x480x640 for an input with other dynamic axes. Repeat for more."
    ),
    plugins: list[Path] = PLUGIN,
    threads: int = typer.Option(0, help="CPU threads (0: the engine's own choice)."),
    cuda_graph: bool = typer.Option(True, help="Replay a CUDA graph."),
    tf32: bool = typer.Option(False, help="Let FP32 round to TF32 on CUDA."),
    nhwc: bool = typer.Option(True, help="onnxruntime on CUDA: prefer channels-last kernels."),
    warmup: float = typer.Option(0.5, help="Seconds of warm-up for each batch."),
    seconds: float = typer.Option(1.0, help="Measure at least this long."),
    max_seconds: float = typer.Option(20.0, help="Measure at most this long."),
    precision: float = typer.Option(0.02, help="Stop when the median is known this well."),
    via: str = typer.Option("api", help="api | trtexec (TensorRT engines)."),
    baseline: str = typer.Option("", help="torch: time PyTorch on the same shapes (needs --config)."),
    config: Path | None = typer.Option(None, help="edgeship.toml that names the model of the baseline."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Folder for latency.npz and bench.json."),
    plot: Path | None = typer.Option(None, help="Draw throughput and latency over the batch as SVG."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Measure an engine: median, p90, p99 of device and wall time, throughput, clocks."""
    from edgeship.cli.settings import checked
    from edgeship.config import Benchmark
    from edgeship.engines import OpenOptions
    from edgeship.errors import UserInputError
    from edgeship.files import storage_errors, write_json, write_text
    from edgeship.trial.sweep import plot_svg

    if via not in ("api", "trtexec") or baseline not in ("", "torch"):
        raise UserInputError(f"--via {via!r}, --baseline {baseline!r}", expected="--via api|trtexec, --baseline torch")
    if baseline and config is None:
        raise UserInputError("--baseline torch needs the model", do="--config edgeship.toml")
    name = engine_of(engine)
    place = device or ("cpu" if name == "onnxruntime" else "cuda:0")
    span = {"warmup_s": warmup, "min_s": min(seconds, max_seconds), "max_s": max_seconds}
    settings = checked(Benchmark, {**span, "precision": precision, "min_samples": 50}, "the options")
    sizes = batch_sizes(batches)
    options = OpenOptions(place, threads, cuda_graph and place != "cpu", max(sizes), tf32, nhwc, tuple(plugins))
    job = Job(engine, name, options, settings, sizes, _frames(frames), _shapes(shapes), out)
    with progress_bar(quiet=as_json) as progress:
        found = job.by_trtexec(progress) if via == "trtexec" else job.by_api(progress)
        beside = job.torch(config, progress) if config is not None and baseline else []
    result = {"engine": str(engine), "device": place, **found.model_dump(mode="json"), "baseline": beside}
    if out is not None:
        write_json(out / "bench.json", result)
    if plot is not None:
        with storage_errors(plot):
            write_text(plot, plot_svg(found, f"{engine.name} on {place}"))
    emit(result, as_json=as_json, text=lambda console: _show(console, found, beside))


def engine_of(path: Path) -> EngineName:
    """Which engine a file is for, by its header. Raises UserInputError, ArtifactError."""
    from edgeship.engines.trt.plan import read_plan
    from edgeship.errors import UserInputError

    if not path.is_file():
        raise UserInputError(f"no engine file at {path}", do="edgeship build MODEL.onnx")
    return "onnxruntime" if path.suffix == ".onnx" else read_plan(path).engine


def batch_sizes(text: str) -> list[int]:
    """``"1,2,4"`` → ``[1, 2, 4]``. Raises UserInputError."""
    from edgeship.errors import UserInputError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserInputError(f"--batches {text!r} is no list of batch sizes", expected="--batches 1,2,4,8")
    return sorted({int(part) for part in parts})


class Job:
    """What one call measures."""

    def __init__(
        self,
        path: Path,
        name: EngineName,
        options: OpenOptions,
        settings: Benchmark,
        batches: list[int],
        frames: dict[str, Any] | None,
        shapes: dict[str, tuple[int, ...]],
        folder: Path | None,
    ) -> None:
        self.path, self.name, self.options, self.settings = path, name, options, settings
        self.batches, self.frames, self.shapes, self.folder = batches, frames, shapes, folder

    def by_api(self, progress: Progress) -> Sweep:
        """Measure in this process. Raises as :func:`edgeship.trial.sweep.sweep` and the engine's ``open``."""
        import time

        from edgeship import engines
        from edgeship.engines.inspect import require_fit
        from edgeship.trial.sweep import Sweep, sweep

        if self.name != "onnxruntime":
            require_fit(self.path, self.options.device)
        begin = time.perf_counter()
        with engines.get(self.name).open(self.path, self.options) as runner:
            load_s = time.perf_counter() - begin
            found = sweep(
                runner,
                self.batches,
                self.settings,
                frames=self.frames,
                shapes=self.shapes,
                folder=self.folder,
                progress=progress,
            )
        rows = tuple(latency.model_copy(update={"load_s": load_s}) for latency in found.latencies)
        return Sweep(latencies=rows, stopped=found.stopped, feeds=found.feeds)

    def by_trtexec(self, progress: Progress) -> Sweep:
        """Let trtexec measure.

        Raises:
            TargetError: There is none here.
            UserInputError: Another engine, or a batch that it does not have.
        """
        import tempfile

        from edgeship.data.feeds import full_shapes
        from edgeship.engines.inspect import describe
        from edgeship.engines.trt import trtexec
        from edgeship.errors import UserInputError
        from edgeship.trial.benchmark import quantiles
        from edgeship.trial.sweep import Sweep, batches_for, folder_of, samples_below

        if self.name != "tensorrt":
            raise UserInputError(f"--via trtexec measures TensorRT engines, {self.path} is one of {self.name}")
        inputs = describe(self.path, self.options.plugins).inputs
        if not inputs:
            raise UserInputError(
                f"the inputs of {self.path} are not known here, so no batch can be asked of it",
                expected=f"{self.path.name}.json beside it, as edgeship build writes, or an engine that opens here",
                do="edgeship build MODEL.onnx --engine tensorrt --via trtexec, then bench what it writes",
            )
        wanted = batches_for(inputs, self.batches)
        rows = []
        with tempfile.TemporaryDirectory() as scratch:
            for number, batch in enumerate(wanted):
                progress(number, len(wanted), f"trtexec, batch {batch}")
                shapes = full_shapes(inputs, batch, self.shapes)
                dynamic = {info.name for info in inputs if any(isinstance(axis, str) for axis in info.shape)}
                measure = trtexec.Measure(
                    {name: shape for name, shape in shapes.items() if name in dynamic},
                    self.settings,
                    batch=batch,
                    cuda_graph=self.options.cuda_graph,
                    device=self.options.device,
                    plugins=self.options.plugins,
                )
                place = folder_of(self.folder, batch, wanted) or Path(scratch)
                found = trtexec.benchmark(self.path, measure, quantiles, place)
                rows.append(samples_below(found, place, self.folder))
        return Sweep(latencies=tuple(rows), feeds="trtexec's own random inputs")

    def torch(self, config: Path, progress: Progress) -> list[dict[str, Any]]:
        """PyTorch on the same shapes. A baseline that PyTorch cannot make is listed with its reason."""
        from edgeship.config import baselines_for, load
        from edgeship.errors import EngineError
        from edgeship.prepare import baseline
        from edgeship.prepare.model import load as load_model
        from edgeship.results import TensorInfo
        from edgeship.trial.benchmark import benchmark
        from edgeship.trial.sweep import feeds_for

        settings = load(config)
        model = load_model(settings.model, settings.root)
        inputs = [TensorInfo(name=key, shape=spec.shape, dtype=spec.dtype) for key, spec in model.inputs.items()]
        rows: list[dict[str, Any]] = []
        names = baselines_for(self.options.device)
        for number, name in enumerate(names):
            progress(number, len(names), f"PyTorch {name}")
            with baseline.open_baseline(name, model.module, tuple(model.inputs), self.options.device) as runner:
                for batch in self.batches:
                    feeds = feeds_for(inputs, batch, self.frames, self.shapes)
                    row: dict[str, Any] = {"name": name, "batch": batch}
                    try:
                        row["latency"] = benchmark(runner, feeds, self.settings).model_dump(mode="json")
                    except EngineError as error:
                        row["failed"] = error.found
                    rows.append(row)
        return rows


def _frames(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    import numpy as np

    from edgeship.errors import DataError

    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no .npz of plain arrays: {error}", expected="one array for each input") from None


def _shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    from edgeship.errors import UserInputError

    found = {}
    for text in texts:
        name, separator, rest = text.partition("=")
        sizes = rest.split("x")
        if not separator or not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise UserInputError(f"--shape {text!r} is no shape", expected="--shape name=1x3x480x640")
        if name in found:
            raise UserInputError(f"--shape names {name!r} twice", expected="one shape for an input; one call for each")
        found[name] = tuple(int(size) for size in sizes)
    return found


def _show(console: Console, found: Sweep, beside: list[dict[str, Any]]) -> None:
    from rich.table import Table

    device = any(latency.device_ms for latency in found.latencies)
    clock = "device" if device else "wall"
    table = Table("batch", f"p50 ms ({clock})", "p90", "p99", "wall p50", "images/s", "samples", box=None)
    for latency in found.latencies:
        times = latency.device_ms or latency.wall_ms
        table.add_row(
            str(latency.batch),
            *(f"{value:.3f}" for value in (times.p50, times.p90, times.p99, latency.wall_ms.p50)),
            f"{latency.throughput:,.0f}",
            f"{times.samples}{'' if latency.settled else ' (not settled)'}",
        )
    console.print(table)
    for note in _notes(found.latencies, found):
        console.print(note, soft_wrap=True)
    if beside:
        console.print(_beside(found, beside))


def _notes(latencies: tuple[Latency, ...], found: Sweep) -> list[str]:
    last = latencies[-1].conditions
    notes = [f"inputs: {found.feeds}"]
    if latencies[0].cuda_graph:
        notes.append("each call replays a CUDA graph; device time leaves the transfers out")
    if last.clock_mhz:
        mode = f", power mode {last.power_mode}" if last.power_mode else ""
        notes.append(f"clock {min(last.clock_mhz):.0f} to {max(last.clock_mhz):.0f} MHz ({last.source}{mode})")
    notes += [
        f"do not trust batch {row.batch}: {row.conditions.changed}" for row in latencies if row.conditions.changed
    ]
    return [*notes, f"stopped: {found.stopped}"] if found.stopped else notes


def _beside(found: Sweep, beside: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    ours = {row.batch: (row.device_ms or row.wall_ms).p50 for row in found.latencies}
    table = Table("PyTorch", "batch", "p50 ms", "engine is faster by", box=None)
    for row in beside:
        if "failed" in row:
            table.add_row(row["name"], str(row["batch"]), "–", row["failed"])
            continue
        latency = row["latency"]
        time = (latency["device_ms"] or latency["wall_ms"])["p50"]
        mine = ours.get(row["batch"])
        table.add_row(row["name"], str(row["batch"]), f"{time:.3f}", f"{time / mine:.2f}x" if mine else "–")
    return table
