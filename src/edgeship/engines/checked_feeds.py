"""Feeds checked against an engine's inputs, once for frames that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds

Shapes = dict[str, tuple[int, ...]]
_ARRAY = np.ndarray


def check_feeds(feeds: Feeds, inputs: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """Feeds as contiguous arrays in the order of ``inputs``.

    Raises:
        DataError: Every wrong name, dtype and shape, in one message.
    """
    known = {info.name: info for info in inputs}
    problems = [f"{name!r} is not an input" for name in feeds if name not in known]
    axes: dict[str, int] = {}
    for name, info in known.items():
        if name not in feeds:
            problems.append(f"{name!r} is missing")
            continue
        array: object = feeds[name]
        if not isinstance(array, np.ndarray):
            problems.append(f"{name!r} is a {type(array).__name__}, not a numpy array")
            continue
        if array.dtype != np.dtype(info.dtype):
            problems.append(f"{name!r} is {array.dtype}, not {info.dtype}")
        if not _fits(array.shape, info, axes):
            problems.append(f"{name!r} has shape {tuple(array.shape)}")
    if problems:
        wanted = ", ".join(f"{info.name!r} {info.dtype} {_shape_text(info)}" for info in inputs)
        raise DataError(f"the feeds do not fit the engine: {'; '.join(problems)}", expected=wanted)
    return {name: np.asarray(feeds[name], order="C") for name in known}


def _fits(shape: tuple[int, ...], info: TensorInfo, axes: dict[str, int]) -> bool:
    if len(shape) != len(info.shape):
        return False
    for size, axis in zip(shape, info.shape, strict=True):
        if isinstance(axis, int) and size != axis:
            return False
        if isinstance(axis, str) and (size < 1 or axes.setdefault(axis, size) != size):
            return False
    return True


def _shape_text(info: TensorInfo) -> str:
    return "[" + ", ".join(str(axis) for axis in info.shape) + "]"


def output_shapes(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], given: Shapes) -> Shapes | None:
    """The outputs' shapes where the named axes of the inputs settle them; None where they do not."""
    axes = {
        axis: size
        for info in inputs
        for axis, size in zip(info.shape, given[info.name], strict=True)
        if isinstance(axis, str)
    }
    found: Shapes = {}
    for info in outputs:
        shape = [axis if isinstance(axis, int) else axes.get(axis) for axis in info.shape]
        settled = tuple(size for size in shape if size is not None)
        if len(settled) != len(shape):
            return None
        found[info.name] = settled
    return found


def shapes_of(feeds: Mapping[str, Array]) -> Shapes:
    """Shape by name."""
    return {name: array.shape for name, array in feeds.items()}


Fitted = list[tuple[str, "np.dtype[Any]", tuple[int, ...]]]
"""Name, dtype and shape of feeds that :func:`check_feeds` passed."""


def fitted_of(feeds: Mapping[str, Array]) -> Fitted:
    """What :func:`alike` compares the next feeds with."""
    return [(name, array.dtype, array.shape) for name, array in feeds.items()]


def alike(feeds: Feeds, fitted: Fitted) -> bool:
    """Whether contiguous feeds like the last ones came again: a camera's next frame does, and needs no more checks."""
    if type(feeds) is not dict or len(feeds) != len(fitted):
        return False
    for name, dtype, shape in fitted:
        array = feeds.get(name)
        if (
            type(array) is not _ARRAY
            or array.dtype is not dtype
            or array.shape != shape
            or not array.flags.c_contiguous
        ):
            return False
    return bool(fitted)
