"""What CUDA says of this machine, through ``cuda.bindings``. Asks, never raises."""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from typing import Any


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
