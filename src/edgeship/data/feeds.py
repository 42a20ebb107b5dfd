"""Inputs by name: seeded noise of real sizes where no frames are needed, and batches filled from frames.

Noise serves shapes, time and the comparison of two graphs. Accuracy and calibration take real frames only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError, ModelError
from edgeship.results.base import TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeship.config import Preprocess

    Array = NDArray[Any]

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Bounds = Mapping[str, tuple[float, float]]
"""Lowest and highest value of an input's noise, by its name."""

TRIED_SIZES = ((64, 96), (64, 64), (128, 128), (224, 224), (256, 256), (320, 320), (416, 416), (512, 512), (640, 640))
"""Sizes for dynamic axes beside the batch of which nothing is known, in the order to try: multiples of 32, because
networks halve a picture up to five times. The first pair differs, so that height and width cannot be mixed up."""
LARGEST_TRIED = 2**26
"""Bytes of one input up to which sizes are tried one after the other."""
LARGEST = 2**33
"""Bytes of one input beyond which its shape is taken for a mistake."""
_UNNAMED = re.compile(r"axis\d+")


def known_shapes(
    inputs: Sequence[TensorInfo], preprocess: Preprocess | None, shapes: Mapping[str, Sequence[int]] | None = None
) -> Shapes:
    """Whole shapes of inputs that the config tells: ``target.shapes`` (opt), else ``preprocess.size`` for the image.

    Args:
        inputs: The model's inputs.
        preprocess: Its ``size``, ``layout`` and ``input`` are read.
        shapes: Whole shapes by input name; they come first.
    """
    known: Shapes = {}
    if preprocess is not None:
        loose = [info for info in inputs if len(info.shape) == 4 and info.name not in preprocess.fed()]
        images = [info for info in loose if preprocess.input in (None, info.name)]
        if len(images) == 1:
            known |= _image_shape(images[0], preprocess)
        for info in inputs:
            declared = preprocess.inputs.get(info.name)
            if declared is not None and declared.origin == "images" and len(info.shape) == 4:
                known |= _image_shape(info, declared.preprocess or preprocess)
    known |= {name: tuple(shape) for name, shape in (shapes or {}).items()}
    return known


def _image_shape(info: TensorInfo, steps: Preprocess) -> Shapes:
    """The shape of one camera's input where its steps tell the size."""
    if steps.size is None:
        return {}
    batch, *rest = info.shape
    place = 1 if steps.layout == "nchw" else 0
    rest[place : place + 2] = steps.size
    colors = 1 if steps.color == "gray" else 3
    return {info.name: (_or(batch, 1), *(_or(axis, colors) for axis in rest))}


def _or(axis: int | str, size: int) -> int:
    return axis if isinstance(axis, int) else size


def full_shapes(
    inputs: Sequence[TensorInfo],
    batch: int,
    known: Mapping[str, Sequence[int]] | None = None,
    others: tuple[int, int] | None = None,
) -> Shapes:
    """The whole shape of every input at a batch.

    A dynamic first axis becomes ``batch``. Other dynamic axes take their size from ``known``, and an axis of the same
    name in another input takes the same. What is left takes its size from ``others`` in turn.

    Raises:
        DataError: An axis beside the first has no known size.
    """
    sizes = _sizes_by_axis(inputs, batch, known or {})
    given_by_name = len(sizes)
    found: Shapes = {}
    for info in inputs:
        given = (known or {}).get(info.name, ())
        shape: list[int] = []
        for place, axis in enumerate(info.shape):
            if isinstance(axis, int):
                shape.append(axis)
            elif place == 0:
                shape.append(batch)
            elif axis in sizes:
                shape.append(sizes[axis])
            elif place < len(given):
                shape.append(given[place])
            elif others is not None:
                shape.append(others[(len(sizes) - given_by_name) % 2])
                sizes[f"{info.name}/{axis}" if _UNNAMED.fullmatch(axis) else axis] = shape[-1]
            else:
                raise _unknown(info, axis)
        found[info.name] = tuple(shape)
    return found


def _unknown(info: TensorInfo, axis: str) -> DataError:
    return DataError(
        f"input {info.name!r} has dynamic axes beside the batch: {list(info.shape)}",
        expected=f"the size of {axis!r}",
        do=f"set preprocess.size or [target.shapes.{info.name}]; on the command line "
        f"--shape {info.name}=1x3x480x640, or real inputs with --frames",
    )


def _sizes_by_axis(inputs: Sequence[TensorInfo], batch: int, known: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Axis name → size, for axes that have a name of their own."""
    sizes: dict[str, int] = {}
    for info in inputs:
        given = known.get(info.name, ())
        if len(given) == len(info.shape):
            sizes |= {axis: size for axis, size in zip(info.shape[1:], given[1:], strict=True) if isinstance(axis, str)}
    sizes |= {info.shape[0]: batch for info in inputs if info.shape and isinstance(info.shape[0], str)}
    return {axis: size for axis, size in sizes.items() if not _UNNAMED.fullmatch(axis)}


def batch_size(inputs: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> int:
    """The batch that whole shapes of inputs have: their first axis where it is declared dynamic, else that of pictures.

    Where the model has neither, it is the longest first axis.
    """
    given = [(info, shapes[info.name]) for info in inputs if shapes.get(info.name)]
    loose = [shape[0] for info, shape in given if isinstance(info.shape[0], str)]
    pictures = [shape[0] for _, shape in given if len(shape) >= 4]
    return max(loose or pictures or [shape[0] for shape in shapes.values() if shape], default=1)


def fixed_batch(inputs: Sequence[TensorInfo]) -> int | None:
    """The only batch that the model takes; None where a first axis is dynamic."""
    if any(info.shape and isinstance(info.shape[0], str) for info in inputs):
        return None
    return batch_size(inputs, {info.name: [_or(axis, 1) for axis in info.shape] for info in inputs})


def possible_shapes(
    inputs: Sequence[TensorInfo], batch: int, known: Mapping[str, Sequence[int]] | None = None
) -> Iterator[Shapes]:
    """Shapes to try until the model takes one: a single choice where all are known, else one of each pair of sizes."""
    try:
        yield full_shapes(inputs, batch, known)
    except DataError:
        for place, pair in enumerate(TRIED_SIZES):
            shapes = full_shapes(inputs, batch, known, pair)
            if place == 0 or all(_bytes(info, shapes[info.name]) <= LARGEST_TRIED for info in inputs):
                yield shapes


def noise(
    inputs: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]], seed: int = 0, bounds: Bounds | None = None
) -> dict[str, Array]:
    """Seeded arrays by input name; equal seeds give equal arrays.

    Floats are normal, integers and booleans 0 or 1, uint8 of four axes (a picture) 0 to 255; where ``bounds`` names
    the input, its values lie evenly between them.

    Raises:
        ModelError: An input is so large that its shape must be a mistake.
    """
    for info in inputs:
        _refuse_huge(info, shapes[info.name])
    random = np.random.default_rng(seed)
    return {
        info.name: _values(random, info, tuple(shapes[info.name]), (bounds or {}).get(info.name)) for info in inputs
    }


def _refuse_huge(info: TensorInfo, shape: Sequence[int]) -> None:
    """Refuse a size that no memory holds before an array of it is made."""
    size = _bytes(info, shape)
    if size > LARGEST:
        raise ModelError(
            f"input {info.name!r} of {list(shape)} {info.dtype} takes {size / 2**30:,.0f} GiB",
            expected=f"at most {LARGEST / 2**30:.0f} GiB for one batch",
            do="correct the declared shape, or export the model at a real size",
        )


def _bytes(info: TensorInfo, shape: Sequence[int]) -> int:
    return math.prod(shape) * np.dtype(info.dtype).itemsize


def _values(random: np.random.Generator, info: TensorInfo, shape: Shape, bounds: tuple[float, float] | None) -> Array:
    kind = np.dtype(info.dtype)
    if kind.kind in "iub":
        low, high = bounds or (0, 255 if info.dtype == "uint8" and len(shape) == 4 else 1)
        return np.asarray(random.integers(int(low), max(int(high), int(low)), shape, endpoint=True)).astype(kind)
    if bounds is not None:
        return np.asarray(random.uniform(*bounds, shape)).astype(kind)
    return np.asarray(random.standard_normal(shape)).astype(kind)


def fill_rows(array: Array, rows: int, start: int = 0) -> Array:
    """``rows`` rows of ``array`` from ``start`` on, from the beginning again when they run out.

    Raises:
        DataError: The array has no rows.
    """
    if start == 0 and len(array) == rows:
        return np.ascontiguousarray(array)
    if not len(array):
        raise DataError("the frames are empty", expected="at least one frame")
    return np.ascontiguousarray(np.take(array, range(start, start + rows), axis=0, mode="wrap"))


def batch_of(frames: Mapping[str, Array], inputs: Sequence[TensorInfo], rows: int, start: int = 0) -> dict[str, Array]:
    """One batch of frames in the order of ``inputs``: ``rows`` rows from ``start`` on, repeated when they run out.

    An input with a fixed first axis gets that many rows; one without axes gets its array as it is.

    Raises:
        DataError: An input has no array, or one without rows.
    """
    feeds: dict[str, Array] = {}
    for info in inputs:
        if info.name not in frames:
            raise DataError(
                f"the frames have no {info.name!r}; they give {', '.join(frames) or 'nothing'}",
                expected=f"an array for each input: {', '.join(each.name for each in inputs)}",
                do="give ready arrays for every input in an .npz",
            )
        array = frames[info.name]
        if not info.shape or not array.ndim:
            feeds[info.name] = array
            continue
        own = info.shape[0]
        whole = isinstance(own, int) and len(array) == own
        feeds[info.name] = fill_rows(array, _or(own, rows), 0 if whole else start)
    return feeds
