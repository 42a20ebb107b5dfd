"""The CUDA parts every GPU engine shares: streams, events, buffers, copies and graphs, on cuda-python.

Runs on ``cuda.bindings`` 12.6 and later; the oldest one tested is 12.8.0. Importing this module loads nothing; the
first call does. Every return code is checked. The runtime API works in the device's primary context, the one
onnxruntime, TensorRT and PyTorch use as well, so handles and pointers may be passed between them as integers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import platform
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DeviceError, MissingExtra

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Array = NDArray[np.generic]

MIB = 1 << 20
_LOST = (
    "cudaErrorIllegalAddress",
    "cudaErrorLaunchFailure",
    "cudaErrorAssert",
    "cudaErrorECCUncorrectable",
    "cudaErrorHardwareStackError",
    "cudaErrorIllegalInstruction",
    "cudaErrorMisalignedAddress",
    "cudaErrorLaunchTimeout",
)


@functools.cache
def runtime() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        MissingExtra: cuda-bindings is not installed.
        DeviceError: There is no driver, and these bindings do not load without one: those of CUDA 12.
    """
    try:
        from cuda.bindings import runtime as module
    except ImportError:
        raise MissingExtra("working on a CUDA device", "cuda-bindings", "tensorrt") from None
    try:
        module.cudaDriverGetVersion()
    except RuntimeError as error:
        raise _no_driver() from error
    return module


def check(returned: tuple[Any, ...], doing: str) -> Any:
    """The value of a CUDA call, or DeviceError.

    Args:
        returned: What the binding returned: the status, then the values.
        doing: What was tried, for the message: ``"copying 12 MiB to the device"``.
    """
    status = returned[0]
    if int(status) != 0:
        raise _failure(status, doing)
    if len(returned) == 1:
        return None
    return returned[1] if len(returned) == 2 else returned[1:]


def _failure(status: Any, doing: str) -> DeviceError:
    module = runtime()
    text = module.cudaGetErrorString(status)[1]
    name = status.name
    words = f"{text.decode() if isinstance(text, bytes) else text} ({name})"
    if name == "cudaErrorInsufficientDriver":
        return _driver_failure(_version(module.cudaDriverGetVersion()), _version(module.cudaRuntimeGetVersion()))
    if name == "cudaErrorNoDevice":
        return DeviceError("there is no CUDA device here", do="use device = 'cpu', or run on a machine with a GPU")
    if name == "cudaErrorMemoryAllocation":
        return DeviceError(f"{doing}: {words}", do="free device memory, or use a smaller batch")
    lost = name in _LOST
    return DeviceError(
        f"{doing}: CUDA failed: {words}",
        do="start the command again: this process has lost its CUDA context; what was finished is kept"
        if lost
        else None,
    )


def _driver_failure(driver: str, wanted: str) -> DeviceError:
    """The error for a driver that supports CUDA ``driver`` under a runtime of CUDA ``wanted``."""
    if driver == "0.0":
        return _no_driver()
    return DeviceError(
        f"the NVIDIA driver supports CUDA {driver}, older than the CUDA runtime {wanted} that is installed",
        expected=f"a driver for CUDA {wanted} or later",
        do=f"update the NVIDIA driver, or pip install 'cuda-bindings=={driver.split('.', maxsplit=1)[0]}.*'",
    )


def _no_driver() -> DeviceError:
    return DeviceError(
        "no CUDA driver is installed here",
        expected="an NVIDIA driver (nvidia-smi lists the device)",
        do="use device = 'cpu', or run on a machine with a GPU",
    )


def _version(returned: tuple[Any, ...]) -> str:
    number = int(check(returned, "asking for the version"))
    return f"{number // 1000}.{number % 1000 // 10}"


@dataclass(frozen=True)
class Properties:
    """One CUDA device."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    multiprocessors: int
    integrated: bool
    bus_id: str


@dataclass(frozen=True)
class Versions:
    """CUDA versions as ``"13.0"``. ``driver`` is the newest runtime that the driver supports."""

    driver: str
    runtime: str


def versions() -> Versions:
    """The versions of the driver and of the runtime. Raises DeviceError without a driver."""
    device_count()
    module = runtime()
    return Versions(driver=_version(module.cudaDriverGetVersion()), runtime=_version(module.cudaRuntimeGetVersion()))


def device_count() -> int:
    """How many CUDA devices there are. Raises DeviceError without a driver or device, MissingExtra."""
    return int(check(runtime().cudaGetDeviceCount(), "counting CUDA devices"))


def index_of(device: str) -> int:
    """``"cuda:1"`` → 1, and that device must exist; ``"cuda"`` is ``"cuda:0"``.

    Raises:
        DeviceError: Not a CUDA device, or there is none of this index.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number == "" or number.isdecimal()):
        raise DeviceError(f"the device {device!r} is not a CUDA device", expected="'cuda:0', 'cuda:1', …")
    index = int(number or 0)
    count = device_count()
    if index >= count:
        listed = ", ".join(f"'cuda:{i}' ({properties(i).name})" for i in range(count))
        raise DeviceError(
            f"there is no device {device!r} here",
            expected=f"one of {listed}",
            do="choose one of them, or look for the missing one: nvidia-smi",
        )
    return index


def use(device: str) -> int:
    """Make a device current in this thread and return its index. Raises DeviceError."""
    index = index_of(device)
    check(runtime().cudaSetDevice(index), f"selecting {device}")
    return index


def properties(index: int) -> Properties:
    """What the device ``index`` is. Raises DeviceError."""
    module = runtime()
    found = check(module.cudaGetDeviceProperties(index), f"reading the properties of cuda:{index}")
    bus = check(module.cudaDeviceGetPCIBusId(32, index), f"reading the bus id of cuda:{index}")
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Properties(
        index=index,
        name=name.rstrip("\0"),
        compute_capability=f"{found.major}.{found.minor}",
        memory_bytes=int(found.totalGlobalMem),
        multiprocessors=int(found.multiProcessorCount),
        integrated=bool(found.integrated),
        bus_id=(bus.decode() if isinstance(bus, bytes) else str(bus)).rstrip("\0"),
    )


def memory() -> tuple[int, int]:
    """Free and total bytes of the current device."""
    free, total = check(runtime().cudaMemGetInfo(), "reading the free device memory")
    return int(free), int(total)


def synchronize() -> None:
    """Wait for everything on the current device. Raises DeviceError with an error of earlier work."""
    check(runtime().cudaDeviceSynchronize(), "waiting for the device")


class Event:
    """A point in a stream, with a time stamp. Given back when nothing holds it any more."""

    def __init__(self) -> None:
        self._runtime = runtime()
        self._event: Any = check(self._runtime.cudaEventCreate(), "making an event")
        self._give_back = weakref.finalize(self, self._runtime.cudaEventDestroy, self._event)

    def record(self, stream: Stream) -> None:
        """Place the event behind what is in ``stream`` now."""
        check(self._runtime.cudaEventRecord(self._event, stream.handle), "recording an event")

    def synchronize(self) -> None:
        """Wait until the event has passed. Raises DeviceError with an error of the work before it."""
        check(self._runtime.cudaEventSynchronize(self._event), "waiting for the device")

    def since(self, start: Event) -> float:
        """Milliseconds from ``start``; both must have passed. The resolution is about half a microsecond."""
        return float(check(self._runtime.cudaEventElapsedTime(start._event, self._event), "reading an event's time"))

    def close(self) -> None:
        """Give the event back now."""
        self._give_back()


class Stream:
    """A stream that does not wait for the default stream. ``handle`` is the ``cudaStream_t`` as an integer."""

    def __init__(self) -> None:
        self._runtime = runtime()
        flags = self._runtime.cudaStreamNonBlocking
        self._stream: Any = check(self._runtime.cudaStreamCreateWithFlags(flags), "making a stream")
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait for the stream's work. Raises DeviceError with an error of it."""
        check(self._runtime.cudaStreamSynchronize(self.handle), "waiting for the device")

    def close(self) -> None:
        """Give the stream back."""
        if self._stream is not None:
            self._runtime.cudaStreamDestroy(self._stream)
            self._stream = None


class DeviceBuffer:
    """Memory on the device. ``pointer`` is its address as an integer.

    Raises:
        DeviceError: Not enough device memory, with what was asked for and what is free.
    """

    def __init__(self, size_bytes: int, what: str = "a buffer") -> None:
        self._runtime = runtime()
        self.size_bytes = size_bytes
        status, pointer = self._runtime.cudaMalloc(max(size_bytes, 1))
        if getattr(status, "name", "") == "cudaErrorMemoryAllocation":
            self._runtime.cudaGetLastError()
            free, total = memory()
            raise DeviceError(
                f"out of device memory: {what} needs {size_bytes / MIB:.1f} MiB, "
                f"{free / MIB:.1f} MiB of {total / MIB:.0f} MiB are free",
                do="use a smaller batch, or free device memory (nvidia-smi lists who holds it)",
            )
        self.pointer: int = int(check((status, pointer), f"allocating {size_bytes} bytes on the device"))

    def close(self) -> None:
        """Free the memory."""
        if self.pointer:
            self._runtime.cudaFree(self.pointer)
            self.pointer = 0


class PinnedBuffer:
    """Page-locked host memory: copies from and to it run asynchronously. Arrays from it die with it."""

    def __init__(self, size_bytes: int) -> None:
        self._runtime = runtime()
        self.size_bytes = size_bytes
        flags = self._runtime.cudaHostAllocDefault
        doing = f"allocating {size_bytes / MIB:.1f} MiB of pinned host memory"
        self.pointer: int = int(check(self._runtime.cudaHostAlloc(max(size_bytes, 1), flags), doing))

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """The memory's first bytes as an array, without a copy."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        if count * kind.itemsize > self.size_bytes:
            raise ValueError(f"{shape} of {kind} needs {count * kind.itemsize} bytes, the buffer has {self.size_bytes}")
        raw = (ctypes.c_ubyte * max(count * kind.itemsize, 1)).from_address(self.pointer)
        view: Array = np.frombuffer(memoryview(raw), dtype=kind, count=count).reshape(shape)
        return view

    def close(self) -> None:
        """Free the memory."""
        if self.pointer:
            self._runtime.cudaFreeHost(self.pointer)
            self.pointer = 0


def upload(target: int, source: int, size_bytes: int, stream: Stream) -> None:
    """Copy from host to device addresses in ``stream``; asynchronous when the host memory is pinned."""
    module = runtime()
    kind = module.cudaMemcpyKind.cudaMemcpyHostToDevice
    check(module.cudaMemcpyAsync(target, source, size_bytes, kind, stream.handle), "copying to the device")


def download(target: int, source: int, size_bytes: int, stream: Stream) -> None:
    """Copy from device to host addresses in ``stream``; asynchronous when the host memory is pinned."""
    module = runtime()
    kind = module.cudaMemcpyKind.cudaMemcpyDeviceToHost
    check(module.cudaMemcpyAsync(target, source, size_bytes, kind, stream.handle), "copying from the device")


class Graph:
    """Captured work, launched with one call. Made by :func:`capture`."""

    def __init__(self) -> None:
        self._runtime = runtime()
        self._executable: Any = None

    def launch(self, stream: Stream) -> None:
        """Put the captured work into ``stream``. Raises DeviceError."""
        if self._executable is None:
            raise DeviceError("the CUDA graph holds nothing: its capture did not end")
        check(self._runtime.cudaGraphLaunch(self._executable, stream.handle), "launching the CUDA graph")

    def close(self) -> None:
        """Give the graph back."""
        if self._executable is not None:
            self._runtime.cudaGraphExecDestroy(self._executable)
            self._executable = None


@contextmanager
def capture(stream: Stream) -> Iterator[Graph]:
    """Capture what the block puts into ``stream``; nothing of it runs until :meth:`Graph.launch`.

    Raises:
        DeviceError: Something in the block cannot be captured, such as a synchronization or an allocation.
    """
    module = runtime()
    graph = Graph()
    mode = module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    check(module.cudaStreamBeginCapture(stream.handle, mode), "beginning a CUDA graph capture")
    try:
        yield graph
    except BaseException:
        module.cudaStreamEndCapture(stream.handle)
        module.cudaGetLastError()
        raise
    captured = check(module.cudaStreamEndCapture(stream.handle), "ending a CUDA graph capture")
    try:
        graph._executable = check(module.cudaGraphInstantiate(captured, 0), "making the CUDA graph")
    finally:
        module.cudaGraphDestroy(captured)


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    index: int
    name: str
    compute_capability: str
    memory_mib: int


@dataclass(frozen=True)
class Cuda:
    """The driver, the runtime and the devices of this machine."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    """The newest CUDA version that the driver runs: ``13.0``."""
    runtime: str | None = None
    reason: str = ""
    """Why there is no device."""


def platform_name() -> str:
    """``x86_64-linux``, ``aarch64-linux``."""
    return f"{platform.machine()}-{platform.system().lower()}"


def cuda_version(number: int) -> str:
    """CUDA's integer version as text: 12060 is ``12.6``."""
    return f"{number // 1000}.{number % 1000 // 10}"


def cuda() -> Cuda:
    """Ask the CUDA runtime; the answer says why when there is no device."""
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return Cuda(reason="cuda.bindings is not installed: pip install 'cuda-bindings>=12.6'")
    try:
        return _ask(runtime)
    except RuntimeError as error:  # cuda.bindings raises it when a library or a symbol is missing
        return Cuda(reason=f"the CUDA runtime does not load: {error}")


def _ask(runtime: Any) -> Cuda:
    error, driver_number = runtime.cudaDriverGetVersion()
    driver = cuda_version(driver_number) if not int(error) and driver_number else None
    error, runtime_number = runtime.cudaRuntimeGetVersion()
    version = cuda_version(runtime_number) if not int(error) else None
    error, count = runtime.cudaGetDeviceCount()
    if int(error):
        _, text = runtime.cudaGetErrorString(error)
        words = text.decode() if isinstance(text, bytes) else str(text)
        why = words if driver else f"no CUDA driver is installed here ({words})"
        return Cuda(driver=driver, runtime=version, reason=why)
    gpus = []
    for index in range(count):
        error, properties = runtime.cudaGetDeviceProperties(index)
        if int(error):
            continue
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = f"{properties.major}.{properties.minor}"
        gpus.append(Gpu(index, name.rstrip("\0"), capability, int(properties.totalGlobalMem) >> 20))
    return Cuda(tuple(gpus), driver, version, "" if gpus else "the CUDA driver lists no device")


def device_index(device: str) -> int:
    """``cuda``, ``cuda:1`` → 0, 1. Anything else is device 0: TensorRT has no other."""
    _, _, number = device.partition(":")
    return int(number) if number.isdigit() else 0
