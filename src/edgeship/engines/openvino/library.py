"""The OpenVINO package: loaded once, its devices by our names, its errors in our words."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeship.errors import DeviceError, EngineError, MissingExtra

_DEVICE = re.compile(r"(cpu|gpu|npu)(?::(\d+))?")
_NO_MEMORY = re.compile(r"out of memory|bad_?alloc|CL_OUT_OF|allocat\w+ failed", re.I)


@functools.cache
def library() -> Any:
    """The openvino package.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtra("the OpenVINO engine", "openvino", "openvino") from None
    return openvino


def version() -> str:
    """The version without the build's hash: ``2026.4.1``. Raises MissingExtra."""
    return str(library().__version__).split("-", maxsplit=1)[0]


def new_core(plugins: tuple[Path, ...] = ()) -> Any:
    """A ``Core`` that knows the custom operators of ``plugins``. Raises MissingExtra, EngineError."""
    made = library().Core()
    for plugin in plugins:
        with translated(f"loading the custom operators of {plugin}", "OpenVINO"):
            made.add_extension(str(plugin))
    return made


def place_of(core: Any, device: str) -> str:
    """OpenVINO's name for a device: ``CPU`` for ``cpu``, ``GPU.1`` for ``gpu:1``.

    Raises:
        DeviceError: A device of another engine, or one that OpenVINO does not find here.
    """
    found = _DEVICE.fullmatch(device)
    if found is None:
        raise DeviceError(
            f"the OpenVINO engine knows no device {device!r}",
            expected="'cpu', 'gpu', 'gpu:1' or 'npu' (Intel's)",
            do="use device = 'cpu', or engine = 'tensorrt' for an NVIDIA GPU",
        )
    name = found[1].upper() + (f".{found[2]}" if found[2] else "")
    offered = list(core.available_devices)
    if name not in offered and not (name + ".0" in offered and not found[2]) and name.removesuffix(".0") not in offered:
        raise DeviceError(
            f"{device} was asked for, and OpenVINO {version()} finds {', '.join(offered) or 'no device'} here",
            expected=f"{name} among them",
            do="install Intel's driver for it, or use device = 'cpu'",
        )
    return name


def devices(core: Any) -> tuple[str, ...]:
    """The devices here by our names."""
    return tuple(name.lower().replace(".", ":") for name in core.available_devices)


@contextmanager
def translated(doing: str, device: str) -> Iterator[None]:
    """Turn OpenVINO's exceptions into DeviceError (out of memory) or EngineError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = said(error)
        if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
            raise DeviceError(f"out of memory on {device} while {doing}", do="use a smaller batch") from error
        raise EngineError(f"{doing} on {device}: OpenVINO says: {text[:600]}") from error


def said(error: Exception) -> str:
    """OpenVINO's words on one line, without the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    own = ("Exception from src", "Check '", "src/")
    return " ".join(line for line in lines if line and not line.startswith(own)) or " ".join(str(error).split())
