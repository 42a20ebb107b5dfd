"""From a plan file to an open engine: everything that can be checked beforehand is, and refusals are explained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines import OpenOptions, cuda, read_engine
from edgeship.engines.trt.flavour import Flavour, Log, logger, remedy, said, supported_capabilities
from edgeship.engines.trt.network import load_libraries, own_plugins
from edgeship.engines.trt.plan import TITLES, Plan, read_plan, require_flavour
from edgeship.errors import DeviceError, EngineError, EngineMismatch

if TYPE_CHECKING:
    import tensorrt as trt

REBUILD = "build it here again from the ONNX: edgeship build MODEL.onnx --engine {engine} --out {path}"
DIAGNOSES = {
    "VERSION_MISMATCH": "another version of TensorRT-RTX built it",
    "UNSUPPORTED_CC": "this TensorRT-RTX or this engine does not support the GPU's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "the file is not a whole engine",
    "CUDA_ERROR": "the CUDA driver or runtime is not installed correctly",
}


@dataclass
class Opened:
    """A deserialized engine with what must outlive it."""

    engine: Any
    runtime: Any
    logger: Any
    log: Log

    def close(self) -> None:
        """Let go in the order that TensorRT needs."""
        self.engine = None
        self.runtime = None


def open_plan(flavour: Flavour, path: Path, options: OpenOptions) -> Opened:
    """Check a plan and deserialize it on ``options.device``.

    Raises:
        ArtifactError: Not a plan, truncated, behind a foreign header, or changed since it was checked.
        EngineMismatch: Another flavour, version or GPU; the library's own reason is in the message.
        DeviceError: No driver, no such device, or its memory is full.
        EngineError: TensorRT refuses it for another reason.
    """
    plan = read_plan(path)
    require_flavour(plan, flavour.engine, str(path))
    index = cuda.use(options.device)
    log = Log()
    keep = logger(flavour.trt, log)
    runtime = flavour.trt.Runtime(keep)
    own_plugins(flavour, keep)
    load_libraries(runtime.get_plugin_registry(), options.plugins, log)
    data = read_engine(path, options)
    before = validity(flavour, runtime, data)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        gpu = cuda.properties(index)
        raise refusal(flavour, plan, path, log, (gpu, before))
    return Opened(engine, runtime, keep, log)


def validity(flavour: Flavour, runtime: trt.Runtime, data: bytes) -> list[str]:
    """TensorRT-RTX: what its own check says against a plan, before it is deserialized; other flavours have none."""
    check = getattr(runtime, "get_engine_validity", None)
    if check is None:
        return []
    state, diagnosis = check(data)
    if state != flavour.trt.EngineValidity.INVALID:
        return []
    return diagnoses(flavour, int(diagnosis))


def diagnoses(flavour: Flavour, bits: int) -> list[str]:
    """The sentences of an EngineInvalidityDiagnostics bit set."""
    members = flavour.trt.EngineInvalidityDiagnostics.__members__
    return [DIAGNOSES.get(name, name) for name, member in members.items() if bits & int(member)]


def refusal(
    flavour: Flavour, plan: Plan, path: Path, log: Log, known: tuple[cuda.Properties, list[str]]
) -> EngineError:
    """The error for a plan that the library would not deserialize. ``known``: the GPU, and what was found before."""
    gpu, found = known[0], list(known[1])
    found.append(f"this GPU is a {gpu.name}, compute capability {gpu.compute_capability}")
    reason = said(log) or "the library gave no reason"
    again = REBUILD.format(engine=flavour.engine, path=path)
    if flavour.rtx and gpu.compute_capability not in supported_capabilities(flavour):
        again = (
            f"run it on a GPU that TensorRT-RTX supports ({', '.join(supported_capabilities(flavour))}); "
            'for this one build with engine = "tensorrt" or "onnxruntime"'
        )
    elif flavour.rtx:
        again += f" --compute-capability {gpu.compute_capability}"
    if not same_version(plan.version, flavour.version):
        found.insert(0, f"{TITLES[plan.engine]} {plan.version} built it, {flavour.version} is installed")
    if "emory" in reason and "nsufficient" in reason:
        return DeviceError(f"{path} does not fit in the device's memory: {reason}", do=remedy(reason))
    return EngineMismatch(found, do=again, reason=reason)


def same_version(first: str, second: str) -> bool:
    """Whether two versions agree as far as both tell: ``10.3.0`` and ``10.3.0.26`` do."""
    return all(a == b for a, b in zip(first.split("."), second.split("."), strict=False))
