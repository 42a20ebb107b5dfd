"""The OpenVINO engine: the candidate's ONNX, compiled at load for the arithmetic and the shapes that its mark names.

On Intel and AMD processors, and on ARM; on Intel's GPU and NPU by their names. What really runs is read from OpenVINO's
execution graph. Needs no ``onnx`` package.
"""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines import BuildRequest, OpenOptions, Probe, Runner, onnx_policy, processor
from edgeship.engines.onnx_file import read_inputs, read_nodes, read_weight_shapes
from edgeship.engines.openvino.execution import ran
from edgeship.engines.openvino.library import devices, library, new_core, place_of, translated, version
from edgeship.engines.openvino.plan import CAPABILITIES, HINTS, EnginePlan, marked
from edgeship.engines.openvino.runner import Opened, OpenvinoRunner, open_file
from edgeship.engines.ran import Origins, Ran, audit_of
from edgeship.engines.served_shapes import example_feeds, profiles_of, require_batches
from edgeship.errors import BuildError, DeviceError, EngineError, MissingExtra, ModelError, PrecisionError
from edgeship.files import peak_resident_mib, read_bytes, storage_errors, write_bytes, write_text
from edgeship.results import Artifact, Audit, Build, Identity

if TYPE_CHECKING:
    from edgeship.engines import Array

SUFFIX = ".onnx"
_PROFILE_RUNS = 5
_MAX_MODEL = 16 << 30


def probe() -> Probe:
    """Say what is installed, without raising."""
    try:
        library()
    except MissingExtra as error:
        return Probe("openvino", available=False, reason=error.found)
    try:
        with translated("looking for devices", "OpenVINO"):
            return Probe("openvino", True, version(), devices(new_core()))
    except (EngineError, DeviceError) as error:
        return Probe("openvino", False, version(), reason=error.found)


def identity(device: str) -> Identity:
    """What an engine built here for ``device`` is bound to. Raises DeviceError, MissingExtra."""
    core = new_core()
    place = place_of(core, device)
    on_cpu = device == "cpu"
    return Identity(
        engine="openvino",
        version=version(),
        device=processor.name() if on_cpu else str(core.get_property(place, "FULL_DEVICE_NAME")),
        platform=f"{platform.machine()}-{platform.system().lower()}",
        instruction_sets=processor.instruction_sets() if on_cpu else (),
        portable=on_cpu,
    )


def misfits(built: Identity, device: str) -> list[str]:
    """What of ``built`` differs from this machine so that the engine would not run as it was measured."""
    if built.engine != "openvino":
        return [f"built by {built.engine}, opened with openvino"]
    here = identity(device)
    found = []
    if built.version != here.version:
        found.append(f"measured with OpenVINO {built.version}, {here.version} is installed")
    if built.platform != here.platform:
        found.append(f"measured on {built.platform}, this is {here.platform}")
    if built.portable != here.portable or (not here.portable and built.device != here.device):
        found.append(f"measured on {built.device!r}, this is {here.device!r}")
    elif here.portable:
        found += processor.missing_instructions(built, here)
    return found


def open(engine: Path, options: OpenOptions) -> Runner:
    """Open an engine file. Raises ArtifactError, ModelError, EngineError, DeviceError, UserInputError."""
    return OpenvinoRunner(open_file(engine, options))


def build(request: BuildRequest) -> Build:
    """Write the candidate's ONNX with its mark, once OpenVINO has compiled and run it as the mark says.

    Raises:
        BuildError: OpenVINO refuses the model, or a shape is not known.
        PrecisionError: This device has no kernels of the asked-for precision.
        ModelError: The graph does not serve the batches of the profile.
        DeviceError: The device is absent or full.
        MissingExtra: OpenVINO is not installed.
    """
    start = time.perf_counter()
    target = request.target
    bound = identity(target.device)
    arithmetic = _arithmetic(request)
    inputs, outputs = read_inputs(request.onnx)
    profiles = profiles_of(inputs, target)
    dynamic = any(low != high for low, _, high in profiles.values())
    plan = EnginePlan(arithmetic, {name: best for name, (_, best, _) in profiles.items()}, dynamic)
    options = OpenOptions(device=target.device, threads=target.threads, plugins=target.plugins)
    with storage_errors(request.output):
        request.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=request.output.parent) as scratch:
            staged = Path(scratch) / "engine.onnx"
            write_bytes(staged, marked(_whole_model(request), plan))
            request.progress(0, 2, "compiling the network")
            opened = _compiled(staged, options)
            runner = OpenvinoRunner(opened)
            require_batches(lambda feeds: [a.shape for a in runner.infer(feeds).values()], inputs, target)
            request.progress(1, 2, "checking the precision")
            found = audit_of(_profiled(opened, example_feeds(inputs, target)), *_asked(request))
            _refuse_missing(request, found)
            staged.replace(request.output)
    request.progress(2, 2, "checking the precision")
    notes = tuple(_notes(request, plan))
    return Build(
        engine=Artifact.of(request.output, request.output.parent),
        identity=bound,
        seconds=time.perf_counter() - start,
        inputs=runner.inputs,
        outputs=outputs,
        profiles=profiles,
        log=_write_log(request, notes),
        peak_memory_mib=peak_resident_mib(),
        notes=notes,
    )


def audit(engine: Path, request: BuildRequest, options: OpenOptions) -> Audit:
    """Compare asked-for with achieved precision, from the execution graph of the network that ships."""
    opened = open_file(engine, options, counters=True)
    return audit_of(_profiled(opened, example_feeds(opened.file.inputs, request.target)), *_asked(request))


def _asked(request: BuildRequest) -> tuple[Any, tuple[str, ...], Origins]:
    origins = Origins(read_nodes(request.onnx), read_weight_shapes(request.onnx))
    return request.precision, request.keep, origins


def _profiled(opened: Opened, feeds: dict[str, Array]) -> tuple[Ran, ...]:
    """The kernels of the network for the shapes that ship, after a few runs."""
    timer = OpenvinoRunner(opened).timer(feeds)
    for _ in range(_PROFILE_RUNS):
        timer()
    network = opened.fixed or opened.other
    assert network is not None
    with translated("reading the execution graph", opened.device):
        return ran(network.network)


def _compiled(staged: Path, options: OpenOptions) -> Opened:
    try:
        return open_file(staged, options, counters=True)
    except DeviceError:
        raise
    except EngineError as error:
        raise BuildError(error.found, do="run `edgeship inspect` on the model") from error


def _whole_model(request: BuildRequest) -> bytes:
    """The candidate's bytes. Raises BuildError where weights lie outside the file."""
    data = read_bytes(request.onnx, _MAX_MODEL)
    try:
        onnx_policy.check_bytes(data, request.onnx.name, plugins=bool(request.target.plugins))
    except ModelError as error:
        raise BuildError(
            error.found,
            expected=error.expected or "a model that can be opened",
            do=f"edgeship slim {request.onnx} -o whole.onnx writes one file without external data; build that",
        ) from error
    return data


def _arithmetic(request: BuildRequest) -> str:
    """OpenVINO's name for the arithmetic beside INT8.

    Raises:
        PrecisionError: OpenVINO has no such kernels, or not on this device, or nodes are to be kept out of it.
    """
    target, asked = request.target, request.precision
    if target.dla_core is not None:
        raise DeviceError("OpenVINO cannot use a DLA", do="use engine = 'tensorrt', or remove target.dla_core")
    arithmetic = HINTS.get(asked)
    if arithmetic is None:
        raise PrecisionError(
            f"OpenVINO has no {asked} kernels",
            expected="fp32, bf16, fp16 or int8",
            do="use precision 'int8', or engine = 'tensorrt'",
        )
    core = new_core()
    offered = list(core.get_property(place_of(core, target.device), "OPTIMIZATION_CAPABILITIES"))
    needed = CAPABILITIES.get(arithmetic)
    if needed is not None and needed not in offered:
        where = processor.name() if target.device == "cpu" else target.device
        raise PrecisionError(
            f"{asked} was asked for, and OpenVINO on {where} has no {needed} kernels",
            expected=f"{needed} among {', '.join(sorted(offered))}",
            do="use precision 'fp32' or 'int8' here"
            + ("; bf16 needs AVX-512 BF16 or AMX" if needed == "BF16" else "; fp16 needs AVX-512 FP16, ARM or a GPU"),
        )
    if request.keep and arithmetic != "f32":
        raise PrecisionError(
            f"{asked} was asked for with nodes kept in FP32 ({', '.join(request.keep[:3])}), and OpenVINO computes "
            f"all of a network in {needed}",
            expected="no kept nodes",
            do="remove candidates.keep_fp32 for this target, or use precision 'int8' with keep, whose rest is FP32",
        )
    return arithmetic


def _refuse_missing(request: BuildRequest, found: Audit) -> None:
    """Refuse a precision of which nothing at all runs. Raises PrecisionError."""
    asked = request.precision
    if asked == "fp32" or found.achieved or not found.missed:
        return
    really = ", ".join(
        f"{count} in {kind}" for layers in found.layers.values() for kind, count in sorted(layers.items())
    )
    raise PrecisionError(
        f"{asked} was asked for, and OpenVINO on {request.target.device} runs none of it: of the convolutions and "
        f"matrix products, {really}",
        expected=f"kernels in {asked}",
        do="use precision 'fp32', or a candidate with Q/DQ nodes (edgeship quantize)",
    )


def _notes(request: BuildRequest, plan: EnginePlan) -> list[str]:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in plan.shapes.items())
    also = "; a second network serves the other sizes of the profile" if plan.dynamic else ""
    notes = [f"compiled at load in {plan.arithmetic} for {shapes}{also}"]
    if request.precision.startswith("int8") and request.target.device == "cpu" and processor.saturates():
        notes.append(
            "this processor has AVX2 and no VNNI: OpenVINO's INT8 kernels may saturate in 16 bits; the accuracy "
            "measured here is that of these kernels"
        )
    return notes


def _write_log(request: BuildRequest, notes: tuple[str, ...]) -> Artifact | None:
    if request.log is None:
        return None
    lines = [f"OpenVINO {version()} on {request.target.device}, asked for {request.precision}"]
    write_text(request.log, "\n".join([*lines, *(f"note: {note}" for note in notes)]) + "\n")
    return Artifact.of(request.log, request.output.parent)
