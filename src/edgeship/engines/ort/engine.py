"""The onnxruntime engine: the graph that onnxruntime itself optimized for this machine, as one file.

On the CPU provider, and on the CUDA provider with ``device = "cuda:0"``. Precision lives in the candidate's ONNX;
what really ran is read from onnxruntime's profiler. Needs no ``onnx`` package.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.engines import BuildRequest, OpenOptions, Probe, Runner, processor
from edgeship.engines.checked_feeds import shapes_of
from edgeship.engines.onnx_file import ONE_FILE, read_nodes, read_weight_shapes
from edgeship.engines.ort.arithmetic import arithmetic_of
from edgeship.engines.ort.cpu import CpuRunner
from edgeship.engines.ort.profile import read_profile
from edgeship.engines.ort.session import (
    CUDA,
    SessionRequest,
    failures,
    library,
    make_session,
    one_line,
    tensors,
    translated,
)
from edgeship.engines.ran import Origins, Ran, audit_of
from edgeship.engines.served_shapes import example_feeds, profiles_of, require_batches
from edgeship.errors import (
    BuildError,
    DeviceError,
    EdgeshipError,
    EngineError,
    MissingExtra,
    PrecisionError,
)
from edgeship.files import peak_resident_mib, storage_errors, write_text
from edgeship.results import Artifact, Audit, Build, Identity, TensorInfo

if TYPE_CHECKING:
    from edgeship.config import Precision, Target
    from edgeship.engines import Array

SUFFIX = ".onnx"
_PROFILE_RUNS = 5
_SLOWER = 1.1
_HALF: tuple[Precision, ...] = ("fp16", "int8-fp16")


def probe() -> Probe:
    """Say what is installed, without raising."""
    try:
        ort = library()
    except MissingExtra as error:
        return Probe("onnxruntime", available=False, reason=error.found)
    offered = list(ort.get_available_providers())
    devices = ["cpu"]
    reason = ""
    if CUDA in offered:
        from edgeship.engines import cuda

        try:
            devices += [f"cuda:{index}" for index in range(cuda.device_count())]
        except EdgeshipError as error:
            reason = error.found
    return Probe("onnxruntime", True, ort.__version__, tuple(devices), reason, {"providers": offered})


def identity(device: str) -> Identity:
    """What an engine built here for ``device`` is bound to. Raises DeviceError, MissingExtra."""
    version = library().__version__
    place = f"{platform.machine()}-{platform.system().lower()}"
    if device == "cpu":
        return Identity(
            engine="onnxruntime",
            version=version,
            device=processor.name(),
            platform=place,
            instruction_sets=processor.instruction_sets(),
            arithmetic="exact",
        )
    from edgeship.engines import cuda

    found = cuda.properties(cuda.index_of(device))
    known = cuda.versions()
    return Identity(
        engine="onnxruntime",
        version=version,
        device=found.name,
        compute_capability=found.compute_capability,
        cuda=known.runtime,
        driver=known.driver,
        platform=place,
    )


def misfits(built: Identity, device: str) -> list[str]:
    """What of ``built`` differs from this machine so that the engine would not run as it was measured.

    A file that onnxruntime optimized is laid out for one kind of vector units, so the instruction sets must be the
    same. The candidate's own ONNX (``built.portable``) is optimized anew at each load: it fits every processor of its
    platform that has the instruction sets it was measured with.
    """
    here = identity(device)
    found = []
    if built.engine != here.engine:
        return [f"built by {built.engine}, opened with {here.engine}"]
    if built.version != here.version:
        found.append(f"onnxruntime {built.version} optimized it, {here.version} is installed")
    if built.platform != here.platform:
        found.append(f"optimized on {built.platform}, this is {here.platform}")
    if here.compute_capability and built.device != here.device:
        found.append(f"optimized for {built.device!r}, this is {here.device!r}")
    if device == "cpu":
        found += processor.missing_instructions(built, here)
    if built.compute_capability != here.compute_capability:
        found.append(
            f"optimized for compute capability {built.compute_capability or 'none (CPU)'}, "
            f"this device has {here.compute_capability or 'none (CPU)'}"
        )
    return found


def open(engine: Path, options: OpenOptions) -> Runner:
    """Open an engine file. Raises EngineError, DeviceError, UserInputError."""
    if options.device == "cpu":
        opened = make_session(engine, options)
        return CpuRunner(opened.session, *_described(opened.session))
    from edgeship.engines.ort.cuda import open_cuda

    return open_cuda(engine, options)


def build(request: BuildRequest) -> Build:
    """Write the graph that onnxruntime optimized for this machine, where that file runs as the session does.

    The file must give the same outputs and no worse latency than the candidate's own session; otherwise the
    candidate's ONNX itself is the engine and ``Build.notes`` says why.

    Raises:
        BuildError: onnxruntime refuses the model, or a shape is not known.
        PrecisionError: This device has no kernels of the asked-for precision.
        DeviceError: The device is absent or full.
        MissingExtra: onnxruntime is not installed.
    """
    start = time.perf_counter()
    target = request.target
    _refuse_unknown(request.precision, target)
    bound = identity(target.device)
    options = OpenOptions(device=target.device, threads=target.threads, tf32=target.tf32, nhwc=target.nhwc)
    with storage_errors(request.output), tempfile.TemporaryDirectory(dir=_folder(request.output)) as scratch:
        request.progress(0, 3, "optimizing the graph")
        made = _optimized(request.onnx, options, target, Path(scratch))
        request.progress(1, 3, "checking the precision")
        _refuse_missing(request, options, made.file, Path(scratch))
        request.progress(2, 3, "writing the engine")
        staged = Path(scratch) / "engine"
        shutil.copyfile(made.file, staged)
        _check_alone(staged, options, request.onnx)
        staged.replace(request.output)
    log = _write_log(request, made)
    request.progress(3, 3, "writing the engine")
    return Build(
        engine=Artifact.of(request.output, request.output.parent),
        identity=bound.model_copy(update=_own_identity(request, made)),
        seconds=time.perf_counter() - start,
        inputs=made.inputs,
        outputs=made.outputs,
        profiles=profiles_of(made.inputs, target),
        log=log,
        peak_memory_mib=peak_resident_mib(),
        notes=made.notes,
    )


def audit(engine: Path, request: BuildRequest, options: OpenOptions) -> Audit:
    """Compare asked-for with achieved precision from a profile of a few runs.

    On CUDA the profiler's times are those of the launches, so ``hottest`` stays empty there.

    Raises:
        EngineError: A convolution or matrix product ran on another provider than the asked-for one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ran = profile(engine, options, request.target, Path(scratch))
    if options.device != "cpu":
        strayed = [item for item in ran if item.kind is not None and item.provider != CUDA]
        if strayed:
            listed = ", ".join(f"{item.name} ({item.operator})" for item in strayed[:5])
            raise EngineError(
                f"{len(strayed)} convolutions or matrix products ran on the CPU, not on {options.device}: {listed}",
                expected=f"all of them on {CUDA}",
                do="use device = 'cpu' for this candidate, or a precision the CUDA provider has kernels for",
            )
    origins = Origins(read_nodes(request.onnx), read_weight_shapes(request.onnx))
    if options.device == "cpu":
        return audit_of(ran, request.precision, request.keep, origins)
    found = audit_of(ran, request.precision, request.keep, origins, tf32=options.tf32)
    return found.model_copy(update={"hottest": ()})


def profile(model: Path, options: OpenOptions, target: Target, scratch: Path) -> tuple[Ran, ...]:
    """What a session of ``model`` runs, from onnxruntime's profiler over a few runs at the profile's opt shapes."""
    session = make_session(model, options, SessionRequest(profile=scratch / "profile")).session
    inputs, _ = _described(session)
    feeds = example_feeds(inputs, target)
    with translated("profiling the engine", options.device):
        for _ in range(_PROFILE_RUNS):
            session.run(None, feeds)
        written = Path(session.end_profiling())
    return read_profile(written)


def _answer(session: Any, feeds: dict[str, Array]) -> list[tuple[int, ...]]:
    """The shapes of a session's outputs. Raises EngineError with onnxruntime's words."""
    try:
        return [array.shape for array in session.run(None, feeds)]
    except failures() as error:
        raise EngineError(one_line(error)) from None


def _described(session: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    return tensors(session.get_inputs()), tensors(session.get_outputs())


def _folder(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


def _refuse_unknown(precision: Precision, target: Target) -> None:
    if precision in ("fp8", "implicit"):
        instead = "int8" if precision == "implicit" else "fp16 on a GPU, or int8"
        raise PrecisionError(
            f"onnxruntime has no {precision} kernels for vision models",
            expected="fp32, fp16 or int8",
            do=f"use precision {instead!r}, or engine = 'tensorrt'",
        )
    if target.dla_core is not None:
        raise DeviceError("onnxruntime cannot use a DLA", do="use engine = 'tensorrt', or remove target.dla_core")


@dataclass(frozen=True)
class _Made:
    file: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    notes: tuple[str, ...]


def _optimized(model: Path, options: OpenOptions, target: Target, scratch: Path) -> _Made:
    """The optimized file where it stands the comparison with the candidate's own session, else the candidate."""
    file = scratch / "optimized.onnx"
    written = file if options.device == "cpu" else None
    try:
        plain = make_session(model, options, SessionRequest(write_optimized=written)).session
    except DeviceError:
        raise
    except EngineError as error:
        raise BuildError(error.found, do="run `edgeship inspect` on the model") from error
    inputs, outputs = _described(plain)
    feeds = example_feeds(inputs, target)
    if options.device == "cpu":
        require_batches(partial(_answer, plain), inputs, target)
    if options.device != "cpu":  # a run here would plan every convolution once more: the audit's profile runs it
        note = "the CUDA provider lays the graph out and searches its convolutions at load: the file is the candidate's"
        return _Made(model, inputs, outputs, (note,))
    with translated("running the candidate", options.device):
        wanted = plain.run(None, feeds)
    reason = ""
    try:
        again = make_session(file, options).session
        with translated("running the optimized graph", options.device):
            found = again.run(None, feeds)
        reason = _compared(wanted, found) or _slower(plain, again, feeds)
    except EngineError as error:
        reason = f"it does not load again: {error.found}"
    described = f"batch {shapes_of(feeds)}"
    if reason:
        return _Made(model, inputs, outputs, (f"ships the candidate's own ONNX, not the optimized graph: {reason}",))
    note = f"the optimized graph gives the session's outputs and latency ({described})"
    return _Made(file, inputs, outputs, (note,))


def _compared(wanted: list[Array], found: list[Array]) -> str:
    for one, other in zip(wanted, found, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"it gives {other.dtype} {other.shape} for {one.dtype} {one.shape}"
        if one.dtype.kind != "f":
            if not np.array_equal(one, other):
                return "its integer outputs differ"
            continue
        scale = float(np.max(np.abs(one), initial=0.0)) or 1.0
        worst = float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0))
        if not worst <= (1e-2 if one.dtype == np.float16 else 1e-4) * scale:
            return f"its outputs differ by {worst:.3g} of {scale:.3g}"
    return ""


def _slower(plain: Any, again: Any, feeds: dict[str, Array]) -> str:
    """Why the written graph is not a substitute in time, from interleaved runs; empty when it is."""
    sessions, times = (plain, again), ([], [])  # type: tuple[Any, Any], tuple[list[float], list[float]]
    deadline = time.perf_counter() + 1.0
    while len(times[1]) < 5 or (len(times[1]) < 40 and time.perf_counter() < deadline):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feeds)
            taken.append(time.perf_counter() - start)
    before, after = (statistics.median(taken[len(taken) // 5 :]) * 1e3 for taken in times)
    fastest = min(times[1]) / min(times[0])
    if after > _SLOWER * before and fastest > _SLOWER:
        return f"it takes {after:.3f} ms where the candidate's session takes {before:.3f} ms (medians, wall time)"
    return ""


def _refuse_missing(request: BuildRequest, options: OpenOptions, file: Path, scratch: Path) -> None:
    """Refuse a precision of which nothing at all runs.

    Raises:
        PrecisionError: With what ran instead and what would work.
    """
    asked = request.precision
    if asked == "fp32":
        return
    ran = profile(file, options, request.target, scratch)
    found = audit_of(ran, asked, request.keep, Origins(read_nodes(request.onnx), read_weight_shapes(request.onnx)))
    half = asked in _HALF and not any("fp16" in item.touches for item in ran if item.operator != "Cast")
    if not half and (found.achieved or not found.missed):
        return
    really = ", ".join(
        f"{sum(item.kind is not None and item.precision == kind for item in ran)} in {kind}"
        for kind in sorted({item.precision for item in ran if item.kind is not None})
    )
    where = processor.name() if options.device == "cpu" else options.device
    if half:
        works = "'fp32' or 'int8' on this device, or 'fp16' with device = 'cuda:0' or TensorRT"
    elif options.device != "cpu":
        works = "'fp16' or 'fp32' here; INT8 on a GPU needs engine = 'tensorrt'"
    else:
        works = "'fp32', or a candidate whose Q/DQ nodes onnxruntime fuses (edgeship quantize --for onnxruntime)"
    raise PrecisionError(
        f"{asked} was asked for, and onnxruntime on {where} runs none of it: of the convolutions and matrix products, "
        f"{really or 'none were found'}",
        expected=f"kernels in {'fp16' if half else asked}",
        do=f"use precision {works}",
    )


def _check_alone(engine: Path, options: OpenOptions, model: Path) -> None:
    """Open the written file in a folder of its own: weights left in a file beside the candidate are missing there."""
    try:
        make_session(engine, options)
    except EngineError as error:
        apart = model.with_name(f"{model.name}.data")
        if apart.is_file() and apart.stat().st_size > ONE_FILE:
            raise BuildError(
                f"{model.name} has {apart.stat().st_size / 2**30:.1f} GiB of weights in a file beside it, and an "
                "engine of onnxruntime is one ONNX file, which holds 2 GiB",
                expected="a candidate whose weights fit one file",
                do="build INT8 or FP16, whose weights are smaller, or take engine = 'tensorrt'",
            ) from error
        raise BuildError(
            f"the engine file does not open alone: {error.found}",
            expected="a candidate that holds its weights itself",
            do=f"edgeship slim {model} -o whole.onnx writes one file without external data; build that",
        ) from error


def _own_identity(request: BuildRequest, made: _Made) -> dict[str, Any]:
    """What of the identity depends on the file: whether it is the candidate's own, and its INT8 arithmetic."""
    if request.target.device != "cpu":
        return {"portable": False}
    return {"portable": made.file == request.onnx, "arithmetic": arithmetic_of(str(request.output))}


def _write_log(request: BuildRequest, made: _Made) -> Artifact | None:
    if request.log is None:
        return None
    lines = [f"onnxruntime {library().__version__} on {request.target.device}, asked for {request.precision}"]
    lines += [f"note: {note}" for note in made.notes]
    write_text(request.log, "\n".join(lines) + "\n")
    return Artifact.of(request.log, request.output.parent)
