"""Engines: modules with the same few functions, listed in one literal dict.

``import edgeship.engines`` loads no engine. :func:`get` imports the one that is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from edgeship import plugins
from edgeship.config import Arithmetic, Calibrator, EngineName, Precision, Target
from edgeship.errors import ArtifactError, UserInputError
from edgeship.files import read_bytes, sha256_bytes
from edgeship.plugins import offered
from edgeship.progress import Progress, silent
from edgeship.results import Audit, Build, Identity, TensorInfo
from edgeship.text import did_you_mean, line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeship.engines.ort.settings import Settings

    Array = NDArray[np.generic]
    Feeds = Mapping[str, Array]

ENGINES: dict[EngineName, str] = {
    "onnxruntime": "edgeship.engines.ort.engine",
    "openvino": "edgeship.engines.openvino.engine",
    "tensorrt": "edgeship.engines.trt.tensorrt",
    "tensorrt-rtx": "edgeship.engines.trt.tensorrt_rtx",
    "onnxruntime-rtx": "edgeship.engines.ort.rtx",
}


PARTS = ("SUFFIX", "probe", "identity", "build", "audit", "open", "misfits")
"""What a module has to have to be an :class:`Engine`."""


@dataclass(frozen=True)
class BuildRequest:
    """What to build, from what, to where.

    ``frames`` serves single frames (first axis 1) to TensorRT 10's own calibrator, which is the one that
    ``calibrator`` names, when no cache is given.
    """

    onnx: Path
    output: Path
    precision: Precision
    target: Target
    keep: tuple[str, ...] = ()
    cache: Path | None = None
    log: Path | None = None
    frames: Iterator[Feeds] | None = None
    calibrator: Calibrator = "entropy"
    progress: Progress = silent


@dataclass(frozen=True)
class OpenOptions:
    """How to open an engine.

    ``max_batch`` sizes the buffers; None: the engine's own profile maximum. ``sha256``: of the only bytes that may be
    opened: a file that was changed after it was checked is refused. ``arithmetic``: that of INT8 on a CPU
    (None: as the file is marked). ``session``: how onnxruntime runs it on a CPU (None: as the file is marked).
    ``judging``: opened for its answers beside other work, not to be timed: threads of onnxruntime that wait on a CPU
    sleep at once.
    """

    device: str = "cpu"
    threads: int = 0
    cuda_graph: bool = False
    max_batch: int | None = None
    tf32: bool = False
    nhwc: bool = True
    plugins: tuple[Path, ...] = ()
    sha256: str | None = None
    arithmetic: Arithmetic | None = None
    session: Settings | None = None
    judging: bool = False


MAX_ENGINE_BYTES = 16 << 30


def read_engine(path: Path, options: OpenOptions) -> bytes:
    """An engine's file in memory, so that what is opened is what was checked.

    Raises:
        ArtifactError: It cannot be read, or is not the file that ``options.sha256`` names.
    """
    try:
        data = read_bytes(path, MAX_ENGINE_BYTES)
    except OSError as error:
        raise ArtifactError(f"the engine {path} cannot be read: {error.strerror}", do="check the path") from None
    if options.sha256 is not None and sha256_bytes(data) != options.sha256:
        raise ArtifactError(
            f"the engine {path} was changed after it was checked",
            expected=f"sha256 {options.sha256}",
            do="load it again when nothing writes to its folder",
        )
    return data


@dataclass(frozen=True)
class Timing:
    """One inference in milliseconds: host wall time with the device drained, and device time where known."""

    wall_ms: float
    device_ms: float | None = None
    upload_ms: float | None = None
    download_ms: float | None = None


class Timer(Protocol):
    """Inputs bound once; each call is one inference, synchronized, and says how long it took.

    ``cuda_graph`` says whether a call replays a CUDA graph; ``no_graph`` why it does not where one was asked for.
    """

    @property
    def cuda_graph(self) -> bool: ...

    @property
    def no_graph(self) -> str: ...

    def __call__(self) -> Timing: ...

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last call, by name."""
        ...


class Runner(Protocol):
    """An open engine.

    ``infer`` checks names, dtypes and shapes, and returns fresh arrays by output name. Not safe from several
    threads at once; the runtime locks.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def infer(self, feeds: Feeds) -> dict[str, Array]: ...

    def timer(self, feeds: Feeds) -> Timer: ...

    def close(self) -> None: ...

    def __enter__(self) -> Runner: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class Probe:
    """What of an engine is installed here. ``reason`` says why it is not available."""

    engine: EngineName
    available: bool
    version: str = ""
    devices: tuple[str, ...] = ()
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """What an engine module offers."""

    SUFFIX: str
    """Of the raw engine file: ``.engine``, ``.onnx``."""

    def probe(self) -> Probe:
        """Say what is installed, without raising."""
        ...

    def identity(self, device: str) -> Identity:
        """What an engine built here for ``device`` would be bound to. Raises DeviceError, MissingExtra."""
        ...

    def build(self, request: BuildRequest) -> Build:
        """Build the engine file. Raises BuildError, PrecisionError, DeviceError, MissingExtra."""
        ...

    def audit(self, engine: Path, request: BuildRequest, options: OpenOptions) -> Audit:
        """Compare asked-for with achieved precision on the built engine, or on the parsed network."""
        ...

    def open(self, engine: Path, options: OpenOptions) -> Runner:
        """Open a verified engine file. Raises EngineMismatch, DeviceError, EngineError."""
        ...

    def misfits(self, built: Identity, device: str) -> list[str]:
        """What of ``built`` differs from this machine so that the engine would not load; empty when it fits."""
        ...


def known() -> dict[str, str]:
    """Every engine by name, as the module that it is: the built-in ones and those that installed packages offer."""
    return offered(plugins.ENGINES) | ENGINES


def get(name: EngineName) -> Engine:
    """The module of an engine. Importing a built-in one loads no vendor library; its functions raise MissingExtra.

    Raises:
        UserInputError: There is no such engine, or what a package offers under that name is not one.
    """
    if name in ENGINES:
        return cast(Engine, importlib.import_module(ENGINES[name]))
    place = known().get(name)
    if place is None:
        raise UserInputError(
            f"there is no engine {did_you_mean(name, known())}",
            expected=f"one of {', '.join(known())}",
            do="install the package that offers it, here and on the device, or correct the name",
        )
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise UserInputError(
            f"the engine {name!r} cannot be imported: {line(str(error))}", do=f"repair the package that offers {place}"
        ) from None
    lacking = [part for part in PARTS if not hasattr(module, part)]
    if lacking:
        raise UserInputError(
            f"{place}, offered as the engine {name!r}, has no {', '.join(lacking)}",
            expected=f"a module with {', '.join(PARTS)}",
            do="correct the package",
        )
    return cast(Engine, module)
