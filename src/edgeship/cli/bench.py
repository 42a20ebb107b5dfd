"""``bench``: latency and throughput of an engine, alone or beside PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import PLUGIN, checked
from edgeship.errors import DataError, UserInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeship.cli.output import Lines
    from edgeship.config import EngineName
    from edgeship.results import Baseline, Latency
    from edgeship.trial.sweep import Sweep


@app.command()
def bench(
    engine: Path = typer.Argument(help="The engine file, or an ONNX file for onnxruntime."),
    device: str = typer.Option("", help="cpu | cuda:0 | gpu | npu (default: cpu where the engine has it)."),
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
    from edgeship.config import Benchmark, takes_tensorrt_graphs
    from edgeship.config_file import load
    from edgeship.engines import OpenOptions
    from edgeship.files import storage_errors, write_json, write_text
    from edgeship.pipeline.bench import Job, measure, measure_by_trtexec, measure_torch
    from edgeship.trial.sweep import plot_svg

    if via not in ("api", "trtexec") or baseline not in ("", "torch"):
        raise UserInputError(f"--via {via!r}, --baseline {baseline!r}", expected="--via api|trtexec, --baseline torch")
    if baseline and config is None:
        raise UserInputError("--baseline torch needs the model", do="--config edgeship.toml")
    name = engine_of(engine)
    place = device or ("cuda:0" if takes_tensorrt_graphs(name) else "cpu")
    span = {"warmup_s": warmup, "min_s": min(seconds, max_seconds), "max_s": max_seconds}
    settings = checked(Benchmark, {**span, "precision": precision, "min_samples": 50}, "the options")
    sizes = batch_sizes(batches)
    options = OpenOptions(place, threads, cuda_graph and place != "cpu", max(sizes), tf32, nhwc, tuple(plugins))
    job = Job(engine, name, options, settings, sizes, _frames(frames), _shapes(shapes), out)
    with progress_bar(quiet=as_json) as progress:
        found = measure_by_trtexec(job, progress) if via == "trtexec" else measure(job, progress)
        beside = measure_torch(job, load(config), progress) if config is not None and baseline else ()
    result = {
        "engine": str(engine),
        "device": place,
        **found.model_dump(mode="json"),
        "baseline": [row.model_dump(mode="json") for row in beside],
    }
    if out is not None:
        write_json(out / "bench.json", result)
    if plot is not None:
        with storage_errors(plot):
            write_text(plot, plot_svg(found, f"{engine.name} on {place}"))
    emit(result, as_json=as_json, lines=lambda: _lines(found, beside))


def engine_of(path: Path) -> EngineName:
    """Which engine a file is for, by its header or its mark. Raises UserInputError, ArtifactError, ModelError."""
    from edgeship.engines import ENGINES
    from edgeship.engines.onnx_file import opened, read_metadata
    from edgeship.engines.trt.plan import read_plan

    if not path.is_file():
        raise UserInputError(f"no engine file at {path}", do="edgeship build MODEL.onnx")
    if path.suffix != ".onnx":
        return read_plan(path).engine
    with opened(path) as model:
        found = read_metadata(model)
    return next((name for name in ENGINES if f"edgeship.{name}" in found), "onnxruntime")


def batch_sizes(text: str) -> list[int]:
    """``"1,2,4"`` → ``[1, 2, 4]``. Raises UserInputError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserInputError(f"--batches {text!r} is not a list of batch sizes", expected="--batches 1,2,4,8")
    return sorted({int(part) for part in parts})


def _frames(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no .npz of plain arrays: {error}", expected="one array for each input") from None


def _shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    found = {}
    for text in texts:
        name, separator, rest = text.partition("=")
        sizes = rest.split("x")
        if not separator or not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise UserInputError(f"--shape {text!r} is not a shape", expected="--shape name=1x3x480x640")
        if name in found:
            raise UserInputError(f"--shape names {name!r} twice", expected="one shape for an input; one call for each")
        found[name] = tuple(int(size) for size in sizes)
    return found


def _lines(found: Sweep, beside: Sequence[Baseline]) -> Lines:
    from rich.table import Table

    from edgeship.results import common_clock

    clock = common_clock(found.latencies)
    table = Table("batch", f"p50 ms ({clock})", "p90", "p99", "wall p50", "images/s", "samples", box=None)
    for latency in found.latencies:
        timed = latency.timed(clock)
        assert timed is not None
        times = timed.quantiles
        table.add_row(
            str(latency.batch),
            *(f"{value:.3f}" for value in (times.p50, times.p90, times.p99, latency.wall_ms.p50)),
            f"{latency.throughput:,.0f}",
            f"{times.samples}{'' if latency.settled else ' (not settled)'}",
        )
    yield table
    yield from _notes(found.latencies, found)
    if beside:
        yield (_beside(found, beside))


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


def _beside(found: Sweep, beside: Sequence[Baseline]) -> Any:
    from rich.table import Table

    from edgeship.results import common_clock

    clock = common_clock(found.latencies)
    ours = {row.batch: timed.quantiles.p50 for row in found.latencies if (timed := row.timed(clock))}
    table = Table("PyTorch", "batch", "p50 ms", "engine is faster by", box=None)
    for row in beside:
        if row.latency is None:
            table.add_row(row.name, str(row.batch), "–", row.failed)
            continue
        theirs, mine = row.latency.timed(clock), ours.get(row.batch)
        time = f"{theirs.quantiles.p50:.3f}" if theirs else "–"
        ratio = f"{theirs.quantiles.p50 / mine:.2f}x" if theirs and mine else "–"
        table.add_row(row.name, str(row.batch), time, ratio)
    return table
