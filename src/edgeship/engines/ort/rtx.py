"""TensorRT-RTX as a plugin provider of onnxruntime (``onnxruntime-ep-nv-tensorrt-rtx``): the engine onnxruntime-rtx.

The engine file is the candidate's own ONNX, marked with its profile; the provider compiles it at load. Every node runs
on the provider or the file is refused: onnxruntime's CPU provider may not take any.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines import BuildRequest, OpenOptions, Probe, Runner, cuda, onnx_policy, read_engine
from edgeship.engines.onnx_file import (
    FLOAT16,
    opened_bytes,
    read_inputs,
    read_metadata,
    read_nodes,
    read_weight_shapes,
    stored_types,
    weights_are_half,
    with_metadata,
)
from edgeship.engines.ort.cpu import CpuRunner
from edgeship.engines.ort.plugin import EXTRA, devices, package, version
from edgeship.engines.ort.session import library, plugin_session, tensors
from edgeship.engines.ran import Origins, Ran, audit_of
from edgeship.engines.served_shapes import Profile, example_feeds, profiles_of, require_batches
from edgeship.errors import ArtifactError, BuildError, DeviceError, EdgeshipError, MissingExtra, PrecisionError
from edgeship.files import peak_resident_mib, read_bytes, storage_errors, write_bytes, write_text
from edgeship.results import Artifact, Audit, Build, Identity

if TYPE_CHECKING:
    from edgeship.config import Precision

NAME = "onnxruntime-rtx"
SUFFIX = ".onnx"
KEY = "edgeship.onnxruntime-rtx"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-fp16", "int8-fp32")
PRODUCTS = {"Conv": "Conv", "ConvTranspose": "ConvTranspose", "Gemm": "MatMul", "MatMul": "MatMul"}
_MAX_MODEL = 16 << 30
Profiles = dict[str, Profile]


def probe() -> Probe:
    """Say what is installed, without raising."""
    try:
        found = version()
    except MissingExtra as error:
        return Probe(NAME, available=False, reason=error.found)
    try:
        return Probe(NAME, True, found, tuple(f"cuda:{index}" for index in range(len(devices()))))
    except EdgeshipError as error:
        return Probe(NAME, False, found, reason=error.found)


def identity(device: str) -> Identity:
    """What an engine built here for ``device`` is bound to. Raises DeviceError, MissingExtra."""
    _device(device)
    found, known = cuda.properties(cuda.index_of(device)), cuda.versions()
    return Identity(
        engine=NAME,
        version=f"{library().__version__}+{version()}",
        device=found.name,
        compute_capability=found.compute_capability,
        cuda=known.runtime,
        driver=known.driver,
        platform=cuda.platform_name(),
    )


def misfits(built: Identity, device: str) -> list[str]:
    """What of ``built`` differs from this machine so that the engine would not run as it was measured."""
    if built.engine != NAME:
        return [f"built by {built.engine}, opened with {NAME}"]
    here = identity(device)
    pairs = (
        ("onnxruntime and its provider", built.version, here.version),
        ("platform", built.platform, here.platform),
        ("GPU", built.device, here.device),
        ("compute capability", built.compute_capability, here.compute_capability),
    )
    return [f"{what}: measured with {before}, this is {now}" for what, before, now in pairs if before != now]


def open(engine: Path, options: OpenOptions) -> Runner:
    """Open an engine file. Raises ArtifactError, ModelError, EngineError, DeviceError, UserInputError."""
    session = _session(engine, options)
    runner = CpuRunner(session, tensors(session.get_inputs()), tensors(session.get_outputs()), options.device)
    runner.no_graph = "the provider takes its inputs from the host's memory at each call" if options.cuda_graph else ""
    return runner


def build(request: BuildRequest) -> Build:
    """Write the candidate's ONNX with its profile, once the provider has compiled and run all of it.

    Raises:
        BuildError: The provider refuses the model or a node of it, or a shape is not known.
        PrecisionError: A precision that is not in the ONNX itself.
        DeviceError: No GPU here that the provider supports.
        MissingExtra: The provider's package is not installed.
    """
    start = time.perf_counter()
    target = request.target
    if request.precision not in PRECISIONS:
        raise PrecisionError(
            f"{NAME} has no {request.precision}: the types of the ONNX decide what it computes in",
            expected=", ".join(PRECISIONS),
            do="use precision 'fp16' or 'int8', or engine = 'tensorrt'",
        )
    if target.dla_core is not None:
        raise DeviceError(f"{NAME} cannot use a DLA", do="use engine = 'tensorrt', or remove target.dla_core")
    bound = identity(target.device)
    inputs, outputs = read_inputs(request.onnx)
    profiles = profiles_of(inputs, target)
    data = read_bytes(request.onnx, _MAX_MODEL)
    onnx_policy.check_bytes(data, request.onnx.name, plugins=bool(target.plugins))
    options = OpenOptions(device=target.device, plugins=target.plugins)
    with storage_errors(request.output):
        request.output.parent.mkdir(parents=True, exist_ok=True)
        staged = request.output.with_name(f".{request.output.name}.tmp.onnx")
        try:
            write_bytes(staged, with_metadata(data, KEY, json.dumps(profiles, sort_keys=True)))
            request.progress(0, 1, "compiling the network")
            _run(staged, options, request)
            staged.replace(request.output)
        finally:
            staged.unlink(missing_ok=True)
    request.progress(1, 1, "compiling the network")
    note = "the file is the candidate's ONNX; the provider compiles it at load"
    return Build(
        engine=Artifact.of(request.output, request.output.parent),
        identity=bound,
        seconds=time.perf_counter() - start,
        inputs=inputs,
        outputs=outputs,
        profiles=profiles,
        log=_write_log(request, note),
        peak_memory_mib=peak_resident_mib(),
        notes=(note,),
    )


def _run(staged: Path, options: OpenOptions, request: BuildRequest) -> None:
    try:
        with open(staged, options) as runner:
            runner.infer(example_feeds(runner.inputs, request.target))
            require_batches(
                lambda feeds: [array.shape for array in runner.infer(feeds).values()], runner.inputs, request.target
            )
    except DeviceError:
        raise
    except EdgeshipError as error:
        do = "run `edgeship preflight MODEL --engine tensorrt-rtx`: it names what TensorRT-RTX does not support"
        raise BuildError(error.found, expected="every node on TensorRT-RTX", do=do) from error


def audit(engine: Path, request: BuildRequest, options: OpenOptions) -> Audit:
    """Asked-for against achieved precision, from the types of the graph.

    TensorRT-RTX is strongly typed, so a node computes in the types that the ONNX gives it; onnxruntime tells nothing of
    the kernels behind its one fused node.
    """
    open(engine, options).close()
    origins = Origins(read_nodes(request.onnx), read_weight_shapes(request.onnx))
    found = audit_of(declared(request.onnx), request.precision, request.keep, origins)
    note = (
        "read from the types of the ONNX: TensorRT-RTX is strongly typed, and onnxruntime tells neither its kernels "
        "nor whether FP32 ones use TF32"
    )
    changes = {"source": "network", "reformats": None, "hottest": (), "order": (), "notes": (*found.notes, note)}
    return found.model_copy(update=changes)


def declared(path: Path) -> tuple[Ran, ...]:
    """Convolutions and matrix products with the precision that their types in the ONNX ask for. Raises ModelError."""
    nodes, types = read_nodes(path), stored_types(path)
    made = {name: node for node in nodes for name in node.outputs}
    rest = "fp16" if weights_are_half(path) else "fp32"
    found = []
    for node in nodes:
        if node.operator not in PRODUCTS:
            continue
        sources = [made.get(name) for name in node.inputs[:2]]
        if all(source is not None and source.operator == "DequantizeLinear" for source in sources):
            precision = "int8"
        else:
            stored = [types[name] for name in node.inputs[1:2] if name in types]
            precision = ("fp16" if stored[0] == FLOAT16 else "fp32") if stored else rest
        name = node.name or node.outputs[0]
        found.append(Ran(name, PRODUCTS[node.operator], "", precision, frozenset((precision,)), precision, 0.0))
    return tuple(found)


def provider_options(profiles: Profiles) -> dict[str, str]:
    """The provider's settings: one optimization profile, and buffers that stay between calls."""
    shapes = {"min": 0, "opt": 1, "max": 2}
    settings = {
        f"nv_profile_{which}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, profile[place]))}" for name, profile in profiles.items()
        )
        for which, place in shapes.items()
    }
    return {**(settings if profiles else {}), "nv_persistent_context_memory": "1"}


def _session(path: Path, options: OpenOptions) -> Any:
    """A session all of whose nodes run on the provider."""
    data = read_engine(path, options)
    onnx_policy.check_bytes(data, path.name, plugins=bool(options.plugins))
    settings = provider_options(marked(data, path.name))
    return plugin_session(data, path.name, options, _device(options.device), settings)


def marked(data: bytes, name: str) -> Profiles:
    """The profile of an engine file; none in a plain ONNX. Raises ArtifactError, ModelError."""
    with opened_bytes(data, name) as model:
        text = read_metadata(model).get(KEY, "{}")
    try:
        found = {
            str(key): tuple(tuple(int(axis) for axis in shape) for shape in shapes)
            for key, shapes in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError):
        found = {"": ()}
    if any(len(shapes) != 3 or not key for key, shapes in found.items()):
        raise ArtifactError(
            f"the mark of the engine {name} holds {text[:120]!r}",
            expected="for each input its smallest, usual and largest shape",
            do=f"build it again: edgeship build MODEL.onnx --engine {NAME}",
        )
    return found  # type: ignore[return-value]


def _device(device: str) -> Any:
    """onnxruntime's handle of a GPU. Raises DeviceError: none here that the provider supports, or several."""
    if not device.startswith("cuda"):
        raise DeviceError(f"{NAME} runs on a GPU, found device {device!r}", expected="device = 'cuda:0'")
    found = devices()
    if not found:
        raise DeviceError(
            f"{device} was asked for, and {package().get_ep_name()} {version()} finds no GPU here that it supports",
            expected="an NVIDIA GPU of compute capability 8.6, 8.9, or 12.0 and later, with a driver for CUDA 13",
            do="check nvidia-smi; engine = 'tensorrt' or 'onnxruntime' serves other NVIDIA GPUs",
        )
    if len(found) > 1 or cuda.index_of(device) != 0:
        raise DeviceError(
            f"{NAME} is offered {len(found)} GPUs, and device = {device!r} does not tell which it would use",
            do=f"show it one: CUDA_VISIBLE_DEVICES=0 edgeship …, with device = 'cuda:0' and pip install '{EXTRA}'",
        )
    return found[0]


def _write_log(request: BuildRequest, note: str) -> Artifact | None:
    if request.log is None:
        return None
    write_text(request.log, f"{NAME} {version()} on {request.target.device}, asked for {request.precision}\n{note}\n")
    return Artifact.of(request.log, request.output.parent)
