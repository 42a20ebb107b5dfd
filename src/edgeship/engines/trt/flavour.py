"""What both TensorRT flavours share: the vendor module with its version, the log, names of types and tensors.

``tensorrt`` or ``tensorrt_rtx`` is an argument to everything here; nothing is global.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.config import EngineName, Target
from edgeship.engines import cuda
from edgeship.engines.trt.plan import TITLES
from edgeship.errors import BuildError, DeviceError, MissingExtra, PrecisionError
from edgeship.files import write_text
from edgeship.results import Identity, TensorInfo

if TYPE_CHECKING:
    import tensorrt as trt

MODULES: dict[EngineName, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
}
"""Flavour → vendor module and the edgeship extra that goes with it."""
FP8_SINCE = 8.9
"""The first compute capability with FP8 units."""
ERROR, WARNING, INFO = 1, 2, 3
"""TensorRT's severities: 0 internal error, 1 error, 2 warning, 3 information, 4 verbose."""
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool", "FP8": "float8_e4m3fn", "INT4": "int4", "FP4": "float4_e2m1fn",
}  # fmt: skip
"""TensorRT's DataType by name → numpy's (or ml_dtypes') name."""


@dataclass(frozen=True)
class Flavour:
    """A vendor module and what follows from it."""

    trt: Any
    engine: EngineName

    @property
    def version(self) -> str:
        """The vendor's version: ``10.3.0``, ``11.4.0.106``, ``1.7.1.116``."""
        return str(self.trt.__version__)

    @property
    def rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.engine == "tensorrt-rtx"

    @property
    def strong_only(self) -> bool:
        """Whether precision can live in the ONNX alone: TensorRT 11 and later, and TensorRT-RTX."""
        return self.rtx or int(self.version.split(".")[0]) >= 11

    @property
    def title(self) -> str:
        """``TensorRT 10.16.1.11``."""
        return f"{TITLES[self.engine]} {self.version}"


def load(engine: EngineName) -> Flavour:
    """Import a flavour's vendor module.

    Raises:
        MissingExtra: It is not installed.
        DeviceError: It is installed and its libraries do not load.
    """
    module, extra = MODULES[engine]
    try:
        flavour = Flavour(importlib.import_module(module), engine)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise DeviceError(
                f"{module} is installed and incomplete: it needs {error.name!r}",
                do=f"pip install --force-reinstall {module.replace('_', '-')}",
            ) from error
        raise MissingExtra(f"the engine {engine!r}", module, extra) from None
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"{module} is installed and its libraries do not load: {error}",
            do="install TensorRT's libraries of the same version (Jetson: apt install tensorrt), then edgeship doctor",
        ) from error
    if engine == "tensorrt" and int(flavour.version.partition(".")[0]) < 10:
        raise DeviceError(
            f"TensorRT {flavour.version} is installed here, and edgeship needs TensorRT 10 or later",
            do="on a Jetson: JetPack 6.1 or later; elsewhere: pip install 'tensorrt>=10'",
        )
    return flavour


@dataclass
class Log:
    """What the builder or the runtime said, from INFO up; ``path`` keeps it in a file."""

    path: Path | None = None
    lines: list[tuple[int, str]] = field(default_factory=list)

    def add(self, severity: int, text: str) -> None:
        """Keep one message."""
        if severity <= INFO:
            self.lines.append((severity, text))

    def errors(self) -> list[str]:
        """The errors so far, in order, each once."""
        return list(dict.fromkeys(text for severity, text in self.lines if severity <= ERROR))

    def warnings(self) -> list[str]:
        """The warnings so far, in order, each once."""
        return list(dict.fromkeys(text for severity, text in self.lines if severity == WARNING))

    def save(self) -> None:
        """Write the file, one message a line, with its severity."""
        if self.path is not None:
            letter = "!EWIV"
            write_text(self.path, "".join(f"[{letter[min(level, 4)]}] {text}\n" for level, text in self.lines))


def logger(trt: Any, log: Log) -> trt.ILogger:
    """A vendor logger that writes into ``log``. Keep it alive as long as what was made with it."""

    class _Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            log.add(int(severity), msg)

    return _Logger()


REMEDIES: tuple[tuple[str, str], ...] = (
    (r"cudaError 35|driver version is insufficient|initialization failure with error: (35|100)|no CUDA-capable device",
     "this needs an NVIDIA GPU and a driver at least as new as the CUDA that TensorRT was built with: edgeship doctor"),
    (r"no optimization profile has been defined|optimization profile",
     "give every dynamic axis a range: --min-batch/--opt-batch/--max-batch or --shapes"),
    (r"workspace limit|no tactics to implement|Could not find any implementation",
     "raise workspace_mib (a node found no kernel within the workspace), then lower optimization_level"),
    (r"[Oo]ut ?[Oo]f ?[Mm]emory|insufficient memory|MEM_ALLOC_FAILED",
     "free memory on the device, lower workspace_mib or the largest batch, or build with optimization_level = 2"),
    (r"libnvinfer_lean|lean runtime",
     "a version-compatible engine needs the lean runtime library: install it, or leave version_compatible off"),
    (r"Failed to open file|Failed to import initializer|[Ee]xternal (data|weights)",
     "keep the external weights file beside the ONNX, under the name that the model gives"),
    (r"No importer registered|[Pp]lugin not found|creator.*not found|UNSUPPORTED_NODE",
     "edgeship preflight names every unsupported node and its remedies; load plugins with plugins = [...]"),
    (r"magicTag|serialization version|[Vv]ersion tag|header\.size == blobSize|plan file is not compatible",
     "the plan is damaged or was built by another version or flavour: build it here again from the ONNX"),
    (r"compute capability|incompatible device|generated on",
     "the plan was built for another GPU: build it here again from the ONNX"),
    (r"DLA", "let layers that DLA cannot run fall back to the GPU (gpu_fallback = true), or leave dla_core off"),
    (r"int64|UINT8|[Uu]nsupported data ?type", "cast that tensor in the model; edgeship preflight names it"),
)  # fmt: skip


def remedy(text: str) -> str | None:
    """What to do about a message of TensorRT's; None when nothing better than the message is known."""
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, text)), None)


def said(log: Log) -> str:
    """The errors of a log in one sentence, the first one first; empty when it said nothing."""
    return "; ".join(log.errors()[:3])


def build_error(what: str, log: Log) -> BuildError:
    """One error out of what the builder said."""
    reason = said(log) or "the builder gave no reason"
    where = f" The whole log is in {log.path}." if log.path is not None else ""
    advice = remedy(reason) or "read the log for the layer it names"
    return BuildError(f"{what}: {reason}", do=f"{advice}.{where}")


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the vendor's DeprecationWarnings about calls that this flavour still needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def dtype_name(value: Any) -> str:
    """numpy's name of a TensorRT DataType."""
    return DTYPES.get(value.name, str(value.name).lower())


def tensor_info(tensor: trt.ITensor) -> TensorInfo:
    """A network's tensor by its own name; dynamic axes by the name the exporter gave, else ``dimN``."""
    shape: list[int | str] = []
    for axis, size in enumerate(tensor.shape):
        shape.append(int(size) if size >= 0 else tensor.get_dimension_name(axis) or f"dim{axis}")
    return TensorInfo(name=tensor.name, shape=tuple(shape), dtype=dtype_name(tensor.dtype))


def refuse_fp8(title: str, target: Target) -> None:
    """Refuse FP8 for GPUs without FP8 units: those that ``compute_capability`` names, else the one here.

    Raises:
        PrecisionError: Names each compute capability below 8.9.
    """
    index = cuda.device_index(target.device)
    asked = target.compute_capability or [gpu.compute_capability for gpu in cuda.cuda().gpus if gpu.index == index]
    old = [text for text in asked if re.fullmatch(r"\d+\.\d+", text) and float(text) < FP8_SINCE]
    if old:
        raise PrecisionError(
            f"fp8 was asked for, and {title} would build for compute capability {', '.join(old)}, which has no FP8",
            expected=f"compute capability {FP8_SINCE} (Ada) or later",
            do='use precision "int8" or "fp16" there, or build FP8 for 8.9 and later alone',
        )


def supported_capabilities(flavour: Flavour) -> tuple[str, ...]:
    """TensorRT-RTX: the compute capabilities that it knows, ``8.6``."""
    names = [name for name in flavour.trt.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)


def identity(flavour: Flavour, device: str, capabilities: tuple[str, ...] = ()) -> Identity:
    """What an engine built here is bound to: this GPU, or for TensorRT-RTX the ``capabilities`` it is built for."""
    here = cuda.cuda()
    gpu = next((gpu for gpu in here.gpus if gpu.index == cuda.device_index(device)), None)
    name = gpu.name if gpu else "no GPU here"
    capability = gpu.compute_capability if gpu else None
    if flavour.rtx:
        capability = ", ".join(capabilities) or None
        name = f"ahead of time for {capability}" if capability else "any GPU that TensorRT-RTX supports"
    return Identity(
        engine=flavour.engine,
        version=flavour.version,
        device=name,
        compute_capability=capability,
        cuda=here.runtime,
        driver=here.driver,
        platform=cuda.platform_name(),
    )
