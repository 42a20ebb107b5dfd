"""trtexec: find it, write the flags that its version knows, read the JSON it exports."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeship.config import Benchmark, Target
from edgeship.engines import BuildRequest
from edgeship.engines.cuda import cuda, device_index, platform_name
from edgeship.engines.onnx_file import FLOAT, read_inputs, read_nodes, weight_types
from edgeship.engines.trt import audit, implicit
from edgeship.engines.trt.flavour import refuse_fp8, remedy
from edgeship.engines.trt.plan import read_plan, require_flavour
from edgeship.errors import (
    ArtifactError,
    BuildError,
    CacheError,
    ConfigError,
    DataError,
    EngineError,
    PrecisionError,
    TargetError,
)
from edgeship.files import write_bytes, write_text
from edgeship.results import Artifact, Build, Identity, Latency, Quantiles, TensorInfo
from edgeship.results.trial_folder import SAMPLES

JETPACK = (
    Path("/usr/src/tensorrt/bin/trtexec"),
    Path("/usr/local/tensorrt/bin/trtexec"),
    Path("/opt/tensorrt/bin/trtexec"),
)
"""Where JetPack and NVIDIA's containers keep it, off the PATH."""
NOT_FOUND = "trtexec is not installed here: it comes with JetPack and the TensorRT archive, not with the pip wheels"
BUILD_LIMIT_S = 4 * 3600
GONE_IN_11 = ("--fp16", "--int8", "--calib", "--stronglyTyped", "--precisionConstraints", "--layerPrecisions")


@dataclass(frozen=True)
class Trtexec:
    """An executable, its version and the flags it knows."""

    path: str
    major: int
    version: str
    flags: frozenset[str] | None = None
    """From its own help; None when it was not asked."""

    def knows(self, flag: str) -> bool:
        """Whether this trtexec takes a flag."""
        if self.flags is not None:
            return flag in self.flags
        return not (self.major >= 11 and flag in GONE_IN_11)


def find() -> Path:
    """The executable: on the PATH, else where JetPack keeps it.

    Raises:
        TargetError: There is none.
    """
    found = shutil.which("trtexec")
    if found:
        return Path(found)
    for place in JETPACK:
        if place.is_file():
            return place
    raise TargetError(NOT_FOUND, do="build with --via api, or add its folder to PATH")


def ask(path: Path) -> Trtexec:
    """Its version and flags, from ``trtexec --help``.

    Raises:
        TargetError: It does not start.
    """
    try:
        done = subprocess.run([str(path), "--help"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(f"{path} does not start: {error}", do="edgeship doctor") from error
    return parse_help(str(path), done.stdout + done.stderr)


def parse_help(path: str, text: str) -> Trtexec:
    """Read the banner and the flags out of the help text. Raises TargetError when it names no version."""
    found = re.search(r"TensorRT v(\d+)", text)
    if found is None:
        first = text.strip().splitlines()[:1] or ["nothing"]
        raise TargetError(f"{path} does not say its version: {first[0]}", expected="a banner with [TensorRT v100300]")
    number = int(found[1])
    major, minor, patch = (
        (number // 10000, number // 100 % 100, number % 100)
        if number >= 100000
        else (number // 1000, number // 100 % 10, number % 100)
    )
    flags = frozenset(re.findall(r"(?<![\w-])--[A-Za-z][\w]*", text))
    return Trtexec(path, major, f"{major}.{minor}.{patch}", flags)


def here_or_assumed() -> Trtexec:
    """The trtexec of this machine, or, for a dry run where there is none, one of TensorRT 10."""
    try:
        return ask(find())
    except TargetError:
        return Trtexec("trtexec", 10, "10")


def shown(command: Sequence[str]) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(command)


def build_command(request: BuildRequest, tool: Trtexec | None = None) -> list[str]:
    """The command line of a build.

    Args:
        request: What to build.
        tool: The trtexec whose flags are used; None: this machine's, or TensorRT 10's where there is none.

    Raises:
        PrecisionError: ``implicit`` on TensorRT 11, whose trtexec has no calibration; or a graph in which nothing has
            the asked-for precision.
        DataError: ``implicit`` without a calibration cache.
        ConfigError: A pattern to keep that matches no node.
    """
    tool = tool or here_or_assumed()
    target = request.target
    command = [
        tool.path,
        f"--onnx={request.onnx}",
        f"--saveEngine={request.output}",
        *_profile_flags(request),
        f"--memPoolSize=workspace:{target.workspace_mib}M",
        "--profilingVerbosity=detailed",
        "--skipInference",
        f"--device={device_index(target.device)}",
    ]
    command += _precision_flags(request, tool)
    if not target.tf32:
        command.append("--noTF32")
    return command + _option_flags(target)


def _profile_flags(request: BuildRequest) -> list[str]:
    ranges: dict[str, tuple[tuple[int, ...], ...]] = {
        name: (item.min, item.opt, item.max) for name, item in request.target.shapes.items()
    }
    batch = request.target.batch
    for tensor in _dynamic_inputs(request.onnx):
        rest = tuple(int(size) for size in tensor.shape[1:] if not isinstance(size, str))
        if tensor.name not in ranges and isinstance(tensor.shape[0], str) and len(rest) == len(tensor.shape) - 1:
            ranges[tensor.name] = ((batch.min, *rest), (batch.opt, *rest), (batch.max, *rest))
    if not ranges:
        return []
    return [
        f"--{word}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, shapes[index]))}" for name, shapes in ranges.items())
        for index, word in enumerate(("min", "opt", "max"))
    ]


def _dynamic_inputs(onnx: Path) -> list[TensorInfo]:
    """The inputs with dynamic axes, read from the file itself."""
    return [tensor for tensor in read_inputs(onnx)[0] if any(isinstance(size, str) for size in tensor.shape)]


def _precision_flags(request: BuildRequest, tool: Trtexec) -> list[str]:
    if request.precision != "implicit":
        refuse_untyped(request)
        return ["--stronglyTyped"] if tool.knows("--stronglyTyped") else []
    if not tool.knows("--calib"):
        raise PrecisionError(
            f"trtexec {tool.version} has no --int8 and no --calib: precision lives in the ONNX",
            expected="a graph with QuantizeLinear and DequantizeLinear nodes",
            do=f"edgeship quantize {request.onnx} --precision int8, then build what it writes",
        )
    if request.cache is None:
        raise DataError(
            "trtexec calibrates INT8 from a cache alone, and none was given: it would take random data",
            expected="a cache from edgeship calibrate",
            do="edgeship calibrate MODEL --images FOLDER, then build with --cache",
        )
    flags = ["--fp16", "--int8", f"--calib={request.cache}"]
    if request.keep:
        names = ",".join(f"{name}:fp16" for name in _kept_names(request))
        flags += ["--precisionConstraints=obey", f"--layerPrecisions={names}"]
    return flags


def refuse_untyped(request: BuildRequest) -> None:
    """Refuse a graph whose file shows that nothing in it has the asked-for precision.

    Raises:
        PrecisionError: FP16 asked and every stored weight is FP32, or INT8 asked and nothing is quantized.
    """
    asked = request.precision
    if asked == "fp16":
        missing = weight_types(request.onnx) == {FLOAT}
    elif asked == "fp32":
        missing = False
    else:
        missing = not any(node.operator == "DequantizeLinear" for node in read_nodes(request.onnx))
    if missing:
        found = "every weight of it is FP32" if asked == "fp16" else "it has no DequantizeLinear node"
        raise PrecisionError(
            f"asked for {asked}, and {request.onnx.name} is not: {found}; TensorRT computes in the types that the "
            "ONNX names",
            expected=f"an ONNX converted to {asked}",
            do=f"edgeship quantize {request.onnx} --precision {asked.partition('-')[0]}, then build what it writes",
        )


def _kept_names(request: BuildRequest) -> list[str]:
    """The names of the nodes that the user's patterns keep: trtexec knows neither ``op:`` nor our patterns."""
    layers = [audit.Layer(node.name, node.operator, "", node.operator) for node in read_nodes(request.onnx)]
    hits = {pattern: [layer.name for layer in layers if audit.is_kept(layer, (pattern,))] for pattern in request.keep}
    problems = [
        f"keep: {pattern!r} matches no node of {request.onnx.name}" for pattern, names in hits.items() if not names
    ]
    found = list(dict.fromkeys(name for names in hits.values() for name in names))
    problems += [f"keep: trtexec cannot name the node {name!r}" for name in found if not name or set(name) & set(":,*")]
    if problems:
        raise ConfigError(problems)
    return found


def _option_flags(target: Target) -> list[str]:
    flags = []
    if target.optimization_level is not None:
        flags.append(f"--builderOptimizationLevel={target.optimization_level}")
    if target.timing_cache is not None:
        flags.append(f"--timingCacheFile={target.timing_cache}")
    if target.dla_core is not None:
        flags.append(f"--useDLACore={target.dla_core}")
    if target.gpu_fallback:
        flags.append("--allowGPUFallback")
    if target.version_compatible:
        flags.append("--versionCompatible")
    if target.hardware_compatible:
        flags.append("--hardwareCompatibilityLevel=ampere+")
    return flags + [f"--staticPlugins={path}" for path in target.plugins]


def build(request: BuildRequest) -> Build:
    """Build with trtexec.

    Raises:
        TargetError: No trtexec here.
        PrecisionError, DataError, ConfigError: See :func:`build_command`.
        CacheError: See :func:`with_own_cache`.
        BuildError: It failed; its first error and a remedy are in the message.
    """
    tool = ask(find())
    if request.precision == "fp8":
        refuse_fp8(f"TensorRT {tool.version}", request.target)
    request = with_own_cache(request, tool)
    command = build_command(request, tool)
    start = time.perf_counter()
    output = run(command, BUILD_LIMIT_S)
    if request.log is not None:
        write_text(request.log, output)
    if not request.output.is_file():
        raise _failed("trtexec ended well and wrote no engine", output)
    plan = read_plan(request.output)
    inputs, outputs = read_inputs(request.onnx)
    folder = request.output.parent
    return Build(
        engine=Artifact.of(request.output, folder),
        identity=_identity(plan.version, request.target),
        seconds=time.perf_counter() - start,
        inputs=inputs,
        outputs=outputs,
        profiles=_profiles(command),
        log=Artifact.of(request.log, folder) if request.log is not None and request.log.parent == folder else None,
        command=shown(command),
    )


def with_own_cache(request: BuildRequest, tool: Trtexec) -> BuildRequest:
    """The request with a copy of the calibration cache beside the engine, under the header that this version accepts.

    A cache under another version's header is not an error to trtexec: it calibrates on random data instead.

    Raises:
        CacheError: No TensorRT calibration cache, or one for the MinMax calibrator, which trtexec has not.
    """
    if request.precision != "implicit" or request.cache is None:
        return request
    text = implicit.read_cache(request.cache)
    algorithm, data = implicit.cache_for(tool.version, text, str(request.cache))
    if algorithm != "EntropyCalibration2":
        raise CacheError(
            f"{request.cache} is a cache of {algorithm}, and trtexec's calibrator takes EntropyCalibration2 alone",
            do="edgeship calibrate writes such a cache; or build with --via api",
        )
    copy = request.output.with_name(f"{request.output.name}.calib")
    write_bytes(copy, data)
    return replace(request, cache=copy)


def _identity(version: str, target: Target) -> Identity:
    here = cuda()
    gpu = next((gpu for gpu in here.gpus if gpu.index == device_index(target.device)), None)
    return Identity(
        engine="tensorrt",
        version=version,
        device=gpu.name if gpu else target.device,
        compute_capability=gpu.compute_capability if gpu else None,
        cuda=here.runtime,
        driver=here.driver,
        platform=platform_name(),
        version_compatible=target.version_compatible,
        hardware_compatible=target.hardware_compatible,
    )


def _profiles(command: Sequence[str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    parsed: list[dict[str, tuple[int, ...]]] = []
    for word in ("min", "opt", "max"):
        text = next((flag.split("=", 1)[1] for flag in command if flag.startswith(f"--{word}Shapes=")), "")
        pairs = [part.rpartition(":") for part in text.split(",") if part]
        parsed.append({name: tuple(map(int, sizes.split("x"))) for name, _, sizes in pairs})
    low, best, high = parsed
    return {name: (low[name], best[name], high[name]) for name in best}


@dataclass(frozen=True)
class Measure:
    """What to measure with trtexec: shapes of the dynamic inputs, and the conditions said aloud."""

    shapes: dict[str, tuple[int, ...]]
    settings: Benchmark
    batch: int = 1
    cuda_graph: bool = True
    transfers: bool = False
    device: str = "cuda:0"
    plugins: tuple[Path, ...] = ()


def bench_command(engine: Path, measure: Measure, times: Path, tool: Trtexec | None = None) -> list[str]:
    """The command line of a measurement: CUDA graph, spin-wait and transfers are stated, so 10 and 11 compare.

    TensorRT 11's trtexec uses graphs and spin-wait and leaves transfers out by default; 10's does the contrary.
    """
    tool = tool or here_or_assumed()
    settings = measure.settings
    command = [tool.path, f"--loadEngine={engine}"]
    if measure.shapes:
        command.append(
            "--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in measure.shapes.items())
        )
    command += [
        f"--warmUp={round(settings.warmup_s * 1000)}",
        f"--duration={max(1, round(settings.min_s))}",
        f"--iterations={settings.min_samples}",
        "--avgRuns=1",
        "--percentile=50,90,99",
        f"--exportTimes={times}",
        f"--device={device_index(measure.device)}",
        *(f"--staticPlugins={path}" for path in measure.plugins),
    ]
    wishes = (
        "--useCudaGraph" if measure.cuda_graph else "--noCudaGraph",
        "--useSpinWait",
        "--includeDataTransfers" if measure.transfers else "--noDataTransfers",
    )
    default_in_10 = {"--noCudaGraph", "--includeDataTransfers"}
    for flag in wishes:
        if tool.flags is None:
            if not (tool.major < 11 and flag in default_in_10):
                command.append(flag)
        elif tool.knows(flag):
            command.append(flag)
    return command


def benchmark(
    engine: Path,
    measure: Measure,
    quantiles: Callable[[Sequence[float]], Quantiles],
    folder: Path,
) -> Latency:
    """Measure an engine with trtexec; device time is its GPU compute time, from the exported JSON.

    Args:
        engine: The plan.
        measure: Shapes, settings and conditions.
        quantiles: Turns milliseconds, in order, into their summary (the benchmark stage's own function).
        folder: Where ``latency.npz`` is written.

    Raises:
        TargetError: No trtexec here.
        EngineError: It failed, or exported no times.
    """
    import numpy as np

    plan = read_plan(engine)
    require_flavour(plan, "tensorrt", str(engine))
    tool = ask(find())
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        times = Path(scratch) / "times.json"
        command = bench_command(engine, measure, times, tool)
        output = run(command, measure.settings.max_s + measure.settings.warmup_s + 600)
        if not times.is_file():
            raise _failed("trtexec exported no times", output, kind=EngineError)
        samples = read_times(times.read_text(encoding="utf-8"))
    path = folder / SAMPLES
    np.savez(path, wall_ms=np.array(samples.wall), device_ms=np.array(samples.device))
    wall = quantiles(samples.wall)
    return Latency(
        batch=measure.batch,
        wall_ms=wall,
        device_ms=quantiles(samples.device),
        upload_ms=quantiles(samples.upload) if measure.transfers else None,
        download_ms=quantiles(samples.download) if measure.transfers else None,
        throughput=1000.0 * measure.batch / wall.p50,
        warmup_s=measure.settings.warmup_s,
        seconds=time.perf_counter() - start,
        settled=len(samples.device) >= measure.settings.min_samples,
        cuda_graph=measure.cuda_graph,
        samples=Artifact.of(path, folder),
        source="trtexec",
    )


@dataclass(frozen=True)
class Samples:
    """Milliseconds, one per inference, in order. ``wall`` is trtexec's latency: transfers (if any) plus compute."""

    wall: list[float]
    device: list[float]
    upload: list[float]
    download: list[float]


def read_times(text: str) -> Samples:
    """Read the JSON of ``--exportTimes``.

    Raises:
        ArtifactError: No such JSON, or no samples in it.
    """
    try:
        rows = json.loads(text)
        kept = [row for row in rows if isinstance(row, dict) and "computeMs" in row]
        samples = Samples(
            wall=[float(row["latencyMs"]) for row in kept],
            device=[float(row["computeMs"]) for row in kept],
            upload=[float(row.get("h2dMs") or row.get("inMs") or 0.0) for row in kept],
            download=[float(row.get("d2hMs") or row.get("outMs") or 0.0) for row in kept],
        )
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"trtexec's exported times cannot be read: {error}", expected="rows with computeMs"
        ) from error
    if not samples.device:
        raise ArtifactError("trtexec exported no samples", expected="rows with computeMs and latencyMs")
    return samples


def run(command: Sequence[str], limit_s: float) -> str:
    """Run trtexec and return what it printed.

    Raises:
        BuildError: It failed, with its first error and a remedy.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except OSError as error:
        raise TargetError(f"{command[0]} does not start: {error}", do="edgeship doctor") from error
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"trtexec did not end within {limit_s:.0f} s", do="raise max_s or lower optimization_level"
        ) from None
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise _failed(f"trtexec ended with {done.returncode}", output)
    return output


def _failed(what: str, output: str, kind: type[BuildError | EngineError] = BuildError) -> BuildError | EngineError:
    errors = re.findall(r"\[E\] (.*)", output)
    words = next((text for text in errors if "Error[" in text or "error" in text.lower()), errors[0] if errors else "")
    tail = words or " | ".join(output.strip().splitlines()[-2:]) or "it said nothing"
    return kind(f"{what}: {tail}", do=remedy(tail) or "run the same command with --verbose")
