"""Inputs of a model beside the image: what the config declares of each, read for every image.

One value belongs to one image and has no batch axis. Where the model's input has one, values are stacked; where it has
none, the model takes one image at a time, or the value is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeship.config import Input, Preprocess
from edgeship.data.preprocess import PICTURES, Geometry, image_input, in_dtype, input_size
from edgeship.data.stored import Arrays, Camera, Columns, Files, cast, files_in, fits, indexed, keys_of, table_in
from edgeship.errors import DataError
from edgeship.files import walk
from edgeship.results import TensorInfo
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Which = Literal["calibration", "evaluation"]
"""The set of images that a value belongs to."""
SIZES = (64.0, 640.0)
"""Sides of an image where noise stands for its size."""
Source = Callable[[str, Geometry], "Array"]
"""From an image's id and its geometry to the value of one input, without the batch axis."""


@dataclass(frozen=True)
class Beside:
    """The values of every input beside the image, for the images of one set. Called in the worker threads."""

    sources: Mapping[str, Source] = field(default_factory=dict)

    def __call__(self, name: str, geometry: Geometry) -> dict[str, Array]:
        """By input: the value that belongs to the image of this id.

        Raises:
            DataError: There is none, or it does not fit the input.
            CorruptImage: The picture of another camera cannot be decoded.
        """
        return {key: source(name, geometry) for key, source in self.sources.items()}

    def __bool__(self) -> bool:
        return bool(self.sources)


def files_of(declared: Input, which: Which) -> Path | None:
    """The file or folder with all that an input's values for a set lie in; of an index the folder that it stands in."""
    place: Path | None = getattr(declared, which)
    indexed_there = place is not None and place.suffix.lower() == ".csv" and declared.origin != "columns"
    return place.parent if place is not None and indexed_there else place


def portable(preprocess: Preprocess) -> Preprocess:
    """The steps without the folders of one machine."""
    gone = {"calibration": None, "evaluation": None}
    inputs = {name: declared.model_copy(update=gone) for name, declared in preprocess.inputs.items()}
    return preprocess.model_copy(update={"inputs": inputs})


def bounds_of(preprocess: Preprocess | None) -> dict[str, tuple[float, float]]:
    """Lowest and highest value that noise may have in the place of a declared constant or size."""
    found: dict[str, tuple[float, float]] = {}
    for name, declared in (preprocess.inputs if preprocess is not None else {}).items():
        if declared.origin in ("image_size", "input_size"):
            found[name] = SIZES
        elif declared.origin == "constant":
            given = np.array(declared.value)
            if given.dtype.kind in "iufb" and given.size:
                found[name] = (float(given.min()), float(given.max()))
    return found


def require_declared(inputs: Sequence[TensorInfo], preprocess: Preprocess) -> TensorInfo:
    """The input that takes the image, once it is known that every other one is declared.

    Raises:
        DataError: An input is fed by nothing, or what is declared is not an input.
    """
    names = [info.name for info in inputs]
    for name in preprocess.fed():
        if name not in names:
            table = f"inputs.{name}" if name in preprocess.inputs else "state"
            raise DataError(
                f"{table}: the model has no input {did_you_mean(name, names)}",
                expected=f"one of {', '.join(names)}",
            )
    image = image_input(inputs, preprocess)
    loose = [name for name in names if name != image.name and name not in preprocess.fed()]
    if loose:
        raise DataError(
            f"images feed {image.name!r} alone, and the model also needs {', '.join(map(repr, loose))}",
            expected="a declaration of every input beside the image",
            do=f'add [inputs.{loose[0]}] with from = "image_size", "input_size", "arrays", "columns" or "images", '
            "or with value = a constant",
        )
    return image


def beside(inputs: Sequence[TensorInfo], preprocess: Preprocess, which: Which, names: Iterable[str] = ()) -> Beside:
    """What feeds the inputs beside the image.

    Args:
        inputs: The model's inputs, as read from the artifact.
        preprocess: Its ``inputs`` are what the config declares.
        which: The set of images.
        names: Ids of images for which every file must be there now; of others it is found when they are read.

    Raises:
        DataError: An input is fed by nothing, a folder or file is missing, or has nothing for an image.
    """
    image = require_declared(inputs, preprocess)
    by_name = {info.name: info for info in inputs}
    known = tuple(names)
    made = {
        name: _source(by_name[name], declared, image, preprocess, _Set(which, known))
        for name, declared in preprocess.inputs.items()
    }
    return Beside(made)


def check_cameras(preprocess: Preprocess, which: Which, folder: Path) -> None:
    """Refuse folders of cameras in which one has a frame that the image's folder lacks.

    Raises:
        DataError: Names the camera and the frame.
    """
    for name, declared in preprocess.inputs.items():
        place = getattr(declared, which)
        if declared.origin != "images" or place is None or not place.is_dir() or not folder.is_dir():
            continue
        have = {key for path in walk(folder) for key in keys_of(path.relative_to(folder).as_posix())}
        others = [path.relative_to(place).with_suffix("") for path in sorted(walk(place)) if _is_picture(path)]
        more = [stem.as_posix() for stem in others if not have.intersection(keys_of(stem.as_posix()))]
        if more:
            raise DataError(
                f"inputs.{name}: {place} holds {len(more)} of {len(others)} frames that {folder} lacks, for instance "
                f"{more[0]}",
                expected="a frame of every camera for each instant",
                do="add the frame, or remove that of the other camera",
            )


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def single(inputs: Sequence[TensorInfo], preprocess: Preprocess) -> str:
    """The input that lets only one image through at a time; empty: none.

    Its value differs by image and it has no batch axis, or it is memory.
    """
    if not preprocess.fed():
        return ""
    image = image_input(inputs, preprocess)
    if not image.shape or isinstance(image.shape[0], int):
        return ""
    for memory in preprocess.state.values():
        return memory.origin
    for info in inputs:
        declared = preprocess.inputs.get(info.name)
        same = declared is None or declared.origin in ("constant", "input_size")
        if not same and not (info.shape and isinstance(info.shape[0], str)):
            return info.name
    return ""


def stacked(info: TensorInfo, values: Sequence[Array]) -> Array:
    """The values of several images as the input takes them: along its batch axis, or the one value that all share.

    Raises:
        DataError: The input has no batch axis and the values differ.
    """
    first = values[0]
    if len(info.shape) == first.ndim + 1:
        if any(value.shape != first.shape for value in values):
            shapes = ", ".join(sorted({str(list(value.shape)) for value in values}))
            raise DataError(f"input {info.name!r} has values of several shapes in one batch: {shapes}")
        return np.stack(values)
    if all(value is first or np.array_equal(value, first) for value in values):
        return first
    raise DataError(
        f"input {info.name!r} of shape {list(info.shape)} has no batch axis, and its value differs from image to image",
        expected="one image at a time",
        do="set target.batch to { min = 1, opt = 1, max = 1 }, or export the model with a batch axis there",
    )


@dataclass(frozen=True)
class _Set:
    which: Which
    names: tuple[str, ...]


def _source(info: TensorInfo, declared: Input, image: TensorInfo, steps: Preprocess, images: _Set) -> Source:
    origin = declared.origin
    if origin == "image_size":
        return _Size(info, declared.order)
    if origin in ("input_size", "constant"):
        value = _input_size(info, declared, image, steps) if origin == "input_size" else constant(info, declared.value)
        return lambda _name, _geometry: value
    place: Path | None = getattr(declared, images.which)
    if place is None:
        raise DataError(
            f"inputs.{info.name}: nothing says where its values for the {images.which} images are",
            expected=f'{images.which} = "folder or CSV" beside {images.which}.images',
            do=f"add {images.which} to [inputs.{info.name}]",
        )
    if origin == "columns":
        rows = Columns(info, table_in(info.name, place, declared.columns), place)
        rows.require(images.names)
        return rows
    suffixes = frozenset({".npy"}) if origin == "arrays" else PICTURES
    files = indexed(info.name, place) if place.suffix.lower() == ".csv" else files_in(info.name, place, suffixes)
    found = Files(info.name, place, files)
    found.require(images.names)
    if origin == "arrays":
        return Arrays(info, found)
    return Camera(found, *camera_steps(info, declared, steps))


def camera_steps(info: TensorInfo, declared: Input, steps: Preprocess) -> tuple[Preprocess, tuple[int, int]]:
    """How another camera's picture becomes its input, and the input's (height, width). Raises DataError."""
    own = (declared.preprocess or steps).model_copy(update={"input": info.name, "inputs": {}})
    return in_dtype(own, info), input_size(info, own)


def known_values(inputs: Sequence[TensorInfo], preprocess: Preprocess, given: Iterable[str] = ()) -> Beside:
    """What is known of every frame: constants and sizes, of the inputs whose value is not given."""
    image, by_name = image_input(inputs, preprocess), {info.name: info for info in inputs}
    known = {
        name: _source(by_name[name], declared, image, preprocess, _Set("evaluation", ()))
        for name, declared in preprocess.inputs.items()
        if name not in given and declared.origin in ("image_size", "input_size", "constant")
    }
    return Beside(known)


def given_value(info: TensorInfo, value: Any) -> Array:
    """A value that the caller gives for one frame, checked as those of files are. Raises DataError."""
    array = cast(info, np.asarray(value), f"the value of {info.name!r}")
    if not (info.shape and fits(array.shape, info.shape[1:])) and not fits(array.shape, info.shape):
        raise DataError(
            f"the value of {info.name!r} has shape {list(array.shape)}",
            expected=f"{list(info.shape[1:])} for one frame, or {list(info.shape)}",
        )
    return array


# --- values that are known ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Size:
    info: TensorInfo
    order: str

    def __call__(self, _name: str, geometry: Geometry) -> Array:
        return _sides(self.info, self.order, (geometry.height, geometry.width))


def _sides(info: TensorInfo, order: str, size: tuple[int, int]) -> Array:
    """The two sides [2] in the input's dtype."""
    if len(info.shape) not in (1, 2) or info.shape[-1] != 2:
        raise DataError(
            f"input {info.name!r} has shape {list(info.shape)} and cannot take a size",
            expected="[batch, 2] or [2]",
        )
    return np.array(size if order == "height-width" else size[::-1], dtype=info.dtype)


def _input_size(info: TensorInfo, declared: Input, image: TensorInfo, steps: Preprocess) -> Array:
    return _sides(info, declared.order, input_size(image, steps))


def constant(info: TensorInfo, value: Any) -> Array:
    """A constant of the config as one image's value: of the input's shape, or of that without its batch axis.

    Raises:
        DataError: It is not numbers, not of the input's type, or fits neither shape.
    """
    try:
        given = np.array(value)
    except ValueError:
        given = np.array(None)
    if given.dtype.kind not in "iufb":
        raise DataError(f"inputs.{info.name}.value is {value!r}", expected="a number, or nested lists of numbers")
    made = cast(info, given, f"inputs.{info.name}.value")
    shape = list(info.shape)
    if not made.ndim and shape:
        rest = shape[1:] if isinstance(shape[0], str) else shape
        if all(isinstance(axis, int) for axis in rest):
            return np.full([int(axis) for axis in rest], made, dtype=info.dtype)
    if fits(made.shape, shape) and not (shape and isinstance(shape[0], str)):
        return made
    if shape and fits(made.shape, shape[1:]):
        return made
    raise DataError(
        f"inputs.{info.name}.value has shape {list(made.shape)}, the input has {shape}",
        expected=f"a number, or nested lists of shape {shape[1:] if shape and isinstance(shape[0], str) else shape}",
    )
