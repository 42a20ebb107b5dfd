"""The functions of the engine protocol for both TensorRT flavours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.config import EngineName, Precision
from edgeship.engines import BuildRequest, OpenOptions, Probe, Runner
from edgeship.engines import cuda as host
from edgeship.engines.onnx_file import WEIGHTED, read_nodes
from edgeship.engines.trt import audit as trt_audit
from edgeship.engines.trt import build as trt_build
from edgeship.engines.trt.flavour import Flavour, Log, identity, load, quiet, supported_capabilities
from edgeship.engines.trt.network import parse
from edgeship.engines.trt.open import same_version
from edgeship.engines.trt.plan import TITLES
from edgeship.errors import DeviceError, EngineError, MissingExtra
from edgeship.results import Audit, Build, Identity

UNNAMED = "the engine's own report names no convolution or matrix product, and the model has some"


def probe(engine: EngineName) -> Probe:
    """What of a flavour is installed here. Never raises."""
    try:
        flavour = load(engine)
    except (MissingExtra, DeviceError) as error:
        return Probe(engine, False, reason=error.found)
    here = host.cuda()
    devices = tuple(f"cuda:{gpu.index} {gpu.name} ({gpu.compute_capability})" for gpu in here.gpus)
    facts: dict[str, Any] = {"cuda": here.runtime, "driver": here.driver, "strongly_typed_only": flavour.strong_only}
    if flavour.rtx:
        facts["builds_for"] = list(supported_capabilities(flavour))
    reason = "" if here.gpus else f"no device to run on: {here.reason}"
    return Probe(engine, flavour.rtx or bool(here.gpus), flavour.version, devices, reason, facts)


def identity_of(engine: EngineName, device: str) -> Identity:
    """What an engine built here for ``device`` would be bound to. Raises MissingExtra, DeviceError."""
    flavour = load(engine)
    bound = identity(flavour, device)
    if not flavour.rtx and bound.compute_capability is None:
        raise DeviceError(f"{flavour.title} needs a GPU: {host.cuda().reason}", do="edgeship doctor")
    return bound


def build(engine: EngineName, request: BuildRequest) -> Build:
    """Build the engine file."""
    return trt_build.build(load(engine), request)


def audit_network(engine: EngineName, request: BuildRequest) -> Audit:
    """Audit the parsed, strongly typed network."""
    flavour = load(engine)
    with quiet():
        parsed = parse(flavour, request.onnx, Log(), plugins=request.target.plugins)
        layers = trt_audit.read_network(parsed.network)
    return trt_audit.summarize(layers, request.precision, request.keep, "network")


def audit_engine(engine: EngineName, path: Path, request: BuildRequest, options: OpenOptions) -> Audit:
    """Audit the built engine; where it does not open here or its report names no product, the typed network.

    The network of an implicit build has no types: its share is then unknown.
    """
    from edgeship.engines.trt.runner import TrtRunner

    flavour = load(engine)
    implicit = request.precision == "implicit"
    nodes = {node.name: node.operator for node in read_nodes(request.onnx)}
    try:
        with quiet(), TrtRunner(flavour, path, options) as runner:
            layers = runner.layers(nodes)
    except EngineError as error:
        if implicit:
            raise
        network = audit_network(engine, request)
        return network.model_copy(update={"notes": (*network.notes, f"not read from the engine: {error.found}")})
    found = trt_audit.summarize(layers, request.precision, request.keep, "engine")
    if any(layer.operator for layer in layers) or WEIGHTED.isdisjoint(nodes.values()):
        return found
    if implicit:
        return found.model_copy(update={"achieved": None, "notes": (UNNAMED,)})
    network = audit_network(engine, request)
    return network.model_copy(update={"reformats": found.reformats, "notes": (UNNAMED, *network.notes)})


def open_engine(engine: EngineName, path: Path, options: OpenOptions) -> Runner:
    """Open a verified engine file. Raises EngineMismatch, DeviceError, EngineError."""
    from edgeship.engines.trt.runner import TrtRunner

    with quiet():
        return TrtRunner(load(engine), path, options)


def misfits(engine: EngineName, built: Identity, device: str) -> list[str]:
    """What of ``built`` differs from this machine so that the engine would not load; empty when it fits."""
    title = TITLES[engine]
    if built.engine != engine:
        return [f"{TITLES[built.engine]} built it, it is to be opened with {title}"]
    found = []
    try:
        flavour = load(engine)
    except (MissingExtra, DeviceError) as error:
        return [f"{title} {built.version} built it; {error.found}"]
    if not _version_fits(built, flavour.version):
        found.append(f"{title} {built.version} built it, {flavour.version} is installed")
    here = identity(flavour, device)
    if here.platform != built.platform and built.platform:
        found.append(f"it was built on {built.platform}, this is {here.platform}")
    cuda = host.cuda()
    gpu = next((gpu for gpu in cuda.gpus if gpu.index == host.device_index(device)), None)
    if gpu is None:
        why = cuda.reason or f"there is no device {device!r} among {len(cuda.gpus)}"
        found.append(f"it needs an NVIDIA GPU: {why}")
        return found
    found += _capability_misfits(flavour, built, gpu)
    if built.driver and here.driver and _older(here.driver, built.driver):
        found.append(f"the driver runs CUDA {here.driver}, it was built under a driver for {built.driver}")
    if built.cuda and here.cuda and built.cuda.split(".")[0] != here.cuda.split(".")[0]:
        found.append(f"CUDA {built.cuda} built it, {here.cuda} is installed")
    return found


def _capability_misfits(flavour: Flavour, built: Identity, gpu: host.Gpu) -> list[str]:
    wanted = [text.strip() for text in (built.compute_capability or "").split(",") if text.strip()]
    has = f"{gpu.name} has {gpu.compute_capability}"
    if flavour.rtx and gpu.compute_capability not in supported_capabilities(flavour):
        return [f"TensorRT-RTX {flavour.version} does not support this GPU's compute capability: {has}"]
    if built.hardware_compatible and not _older(gpu.compute_capability, "8.0"):
        return []
    if wanted and gpu.compute_capability not in wanted:
        return [f"it was built for compute capability {', '.join(wanted)}, {has}"]
    return []


def _version_fits(built: Identity, installed: str) -> bool:
    """Whether an engine's version loads here: the same one, or any later one for a version-compatible plan."""
    if same_version(built.version, installed):
        return True
    return built.version_compatible and not _older(installed, built.version)


def _older(first: str, second: str) -> bool:
    return tuple(map(int, first.split("."))) < tuple(map(int, second.split(".")))


def declared_precision(engine: EngineName, onnx: Path, plugins: tuple[Path, ...] = ()) -> Precision:
    """The precision that an ONNX file itself asks for, read from the parsed network. Raises what parsing raises."""
    with quiet():
        parsed = parse(load(engine), onnx, Log(), plugins=plugins)
        return trt_audit.declared(trt_audit.read_network(parsed.network))
