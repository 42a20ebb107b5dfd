"""NVIDIA's provider package for onnxruntime: imported and registered once, its failures in our words."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from edgeship.engines.ort.session import failures, library, one_line
from edgeship.errors import DeviceError, MissingExtra

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
EXTRA = "edgeship[onnxruntime-rtx]"


@functools.cache
def package() -> Any:
    """The provider's package. Raises MissingExtra: it, or onnxruntime, is not installed."""
    library()
    try:
        return importlib.import_module(MODULE)
    except ImportError:
        raise MissingExtra("the engine 'onnxruntime-rtx'", MODULE.replace("_", "-"), "onnxruntime-rtx") from None


def version() -> str:
    """The package's version. Raises MissingExtra."""
    return str(package().__version__)


def devices() -> tuple[Any, ...]:
    """The GPUs that the provider supports, as onnxruntime's handles. Raises DeviceError, MissingExtra."""
    _register()
    name = package().get_ep_name()
    return tuple(device for device in library().get_ep_devices() if device.ep_name == name)


@functools.cache
def _register() -> None:
    """Load the provider's library into onnxruntime, once a process."""
    ort, found = library(), package()
    if not hasattr(ort, "register_execution_provider_library"):
        raise DeviceError(
            f"onnxruntime {ort.__version__} takes no plugin providers", expected="onnxruntime 1.24 or later"
        )
    refusals: tuple[type[Exception], ...] = (*failures(), FileNotFoundError)
    try:
        ort.register_execution_provider_library(found.get_ep_name(), found.get_library_path())
    except refusals as error:
        words = one_line(error)
        driver = "libcuda" in words or "libnvidia-ml" in words
        raise DeviceError(
            f"onnxruntime cannot load {found.get_ep_name()} {found.__version__}: {words[:300]}",
            expected="NVIDIA's driver (libcuda, libnvidia-ml)" if driver else "a provider made for this onnxruntime",
            do="install NVIDIA's driver for CUDA 13, and check nvidia-smi"
            if driver
            else f"pip install --upgrade '{EXTRA}'",
        ) from None
