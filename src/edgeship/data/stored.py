"""Values of inputs that lie in files: an ``.npy``, a row of a CSV or a picture for each image."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Preprocess
from edgeship.data.labels import IMAGE_KEYS, table_rows
from edgeship.data.npz import BROKEN_ARRAY
from edgeship.data.preprocess import CorruptImage, Geometry, apply, open_picture
from edgeship.errors import DataError
from edgeship.files import walk
from edgeship.results import TensorInfo
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def fits(found: Sequence[int], wanted: Sequence[int | str]) -> bool:
    """Whether a shape is one that a declared shape allows."""
    return len(found) == len(wanted) and all(
        isinstance(want, str) or have == want for have, want in zip(found, wanted, strict=True)
    )


def cast(info: TensorInfo, array: Array, what: str) -> Array:
    """The array in the input's dtype, where nothing is lost by kind: whole numbers stay whole."""
    to = np.dtype(info.dtype)
    whole = to.kind in "iu" and array.dtype.kind in "iub" and _within(array, to)
    if not (whole or np.can_cast(array.dtype, to, "same_kind") or (to.kind == "f" and array.dtype.kind in "iub")):
        raise DataError(
            f"{what} is {array.dtype}, input {info.name!r} takes {info.dtype}", do=f"save it as {info.dtype}"
        )
    return array.astype(to)


def _within(array: Array, to: np.dtype[Any]) -> bool:
    limits = np.iinfo(to)
    return not array.size or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)


@dataclass(frozen=True)
class Files:
    """A file for each image: by the image's path without its suffix, or by the last part of it where that is unique."""

    name: str
    place: Path
    files: Mapping[str, Path]

    def of(self, image: str) -> Path:
        """The file that belongs to an image. Raises DataError."""
        for key in keys_of(image):
            if key in self.files:
                return self.files[key]
        raise self._missing([image])

    def require(self, images: Sequence[str]) -> None:
        """Refuse a set of which an image has no file, or, in a folder, two images have one. Raises DataError."""
        missing = [image for image in images if not any(key in self.files for key in keys_of(image))]
        if missing:
            raise self._missing(missing, len(images))
        if self.place.is_dir():
            refuse_shared(self.name, {image: self.of(image).name for image in images}, {i: self.of(i) for i in images})

    def _missing(self, images: Sequence[str], total: int = 0) -> DataError:
        many = f" for {len(images)} of {total} images, for instance {images[0]}" if total else f" for {images[0]}"
        return DataError(
            f"inputs.{self.name}: {self.place} holds nothing{many}",
            expected="a file of the same path up to the suffix, for every image",
            do=f"add the file, remove the image, or name the files in a CSV with the columns image and {self.name}",
        )


def refuse_shared(name: str, words: Mapping[str, str], places: Mapping[str, Any]) -> None:
    """Refuse that two images, found by the last part of their paths, take one value. Raises DataError."""
    seen: dict[Any, str] = {}
    for image, place in places.items():
        other = seen.setdefault(place, image)
        if other != image:
            raise DataError(
                f"inputs.{name}: {other} and {image} would both take {words[image]}",
                expected="a value for each image, by its whole path below the folder",
                do="lay the files out as the images are, or name the images by their paths",
            )


def keys_of(image: str) -> tuple[str, ...]:
    """Under which keys the values of an image may stand: its path, that without suffix, the last part of both.

    A row of an array (``frames.npz[3]``) has its own name, or its number.
    """
    if match := re.fullmatch(r".*\[(\d+)\]", image):
        return (image, match[1])
    path = PurePosixPath(image)
    return tuple(dict.fromkeys([image, path.with_suffix("").as_posix(), path.name, path.stem]))


def files_in(name: str, folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Path below ``folder`` without its suffix, and last part of it where that is unique → file. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"inputs.{name}: there is no folder {folder}", do=f"fix [inputs.{name}], or add the folder")
    found: dict[str, Path] = {}
    last: dict[str, list[Path]] = {}
    for path in sorted(walk(folder)):
        if path.suffix.lower() not in suffixes:
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise DataError(f"inputs.{name}: {found[key].name} and {path.name} in {path.parent} are for one image")
        found[key] = path
        last.setdefault(path.stem, []).append(path)
    if not found:
        raise DataError(f"inputs.{name}: {folder} holds no {' or '.join(sorted(suffixes))} file")
    return {stem: paths[0] for stem, paths in last.items() if len(paths) == 1} | found


def _rows(name: str, path: Path, wanted: Sequence[str]) -> tuple[str, list[tuple[str, dict[str, str]]]]:
    """The column that names the image, and where each row stands with its values."""
    header, rows = table_rows(path, f"inputs.{name}", lower=False)
    image = next((column for column in header if column.lower() in IMAGE_KEYS), None)
    if image is None:
        raise DataError(
            f"inputs.{name}: {path} has the columns {', '.join(header) or 'none'}",
            expected=f"one that names the image: {', '.join(IMAGE_KEYS)}",
        )
    twice = next((column for column in (image, *wanted) if header.count(column) > 1), None)
    if twice is not None:
        raise DataError(f"inputs.{name}: {path} has two columns {twice!r}", do="keep one of them")
    for column in wanted:
        if column not in header:
            raise DataError(
                f"inputs.{name}: {path} has no column {did_you_mean(column, header)}",
                expected=f"{image} and {', '.join(wanted)}",
            )
    return image, rows


def indexed(name: str, path: Path) -> dict[str, Path]:
    """Image → file, from an index: a CSV whose paths are relative to it. Raises DataError."""
    image, rows = _rows(name, path, [name])
    found: dict[str, Path] = {}
    for where, row in rows:
        given = row.get(name, "")
        file = path.parent / given
        if given and not file.resolve().is_relative_to(path.parent.resolve()):
            raise DataError(
                f"inputs.{name}: {where}: {given} leads out of {path.parent}",
                expected="files in the folder of the index, or below it",
            )
        if not given or not file.is_file():
            raise DataError(f"inputs.{name}: {where}: there is no file {given or '(empty)'}")
        _note(found, row.get(image, ""), file, f"inputs.{name}: {where}")
    return found


def table_in(name: str, path: Path, columns: Sequence[str]) -> dict[str, list[float]]:
    """Image → numbers of these columns. Raises DataError with the line of what is not a number."""
    image, rows = _rows(name, path, columns)
    found: dict[str, list[float]] = {}
    for where, row in rows:
        given = [row.get(column, "") for column in columns]
        try:
            values = list(map(float, given))
        except ValueError:
            wrong = next(place for place, value in enumerate(given) if not _number(value))
            raise DataError(
                f"inputs.{name}: {where}: {columns[wrong]} is {given[wrong]!r}", expected="a number"
            ) from None
        if not all(map(math.isfinite, values)):
            raise DataError(f"inputs.{name}: {where}: a value is not finite", expected="finite numbers")
        _note(found, row.get(image, ""), values, f"inputs.{name}: {where}")
    return found


def _note(found: dict[str, Any], image: str, value: Any, where: str) -> None:
    if not PurePosixPath(image).name:
        raise DataError(
            f"{where}: {repr(image) if image else 'no image'} is named",
            expected="an image",
            do="name it, or remove the row",
        )
    for key in dict.fromkeys([image, PurePosixPath(image).with_suffix("").as_posix()]):
        if key in found:
            raise DataError(f"{where}: {image} stands there twice", do="keep one row for each image")
        found[key] = value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Columns:
    """Numbers of a CSV."""

    info: TensorInfo
    table: Mapping[str, list[float]]
    place: Path

    def require(self, images: Sequence[str]) -> None:
        """Refuse a table in which an image has no row, or two images have one. Raises DataError."""
        rows = {image: next((key for key in keys_of(image) if key in self.table), None) for image in images}
        missing = [image for image, row in rows.items() if row is None]
        if missing:
            raise DataError(
                f"inputs.{self.info.name}: {self.place} has no row for {len(missing)} of {len(images)} images, for "
                f"instance {missing[0]}",
                do="add the row",
            )
        refuse_shared(self.info.name, {image: f"the row {row}" for image, row in rows.items()}, rows)

    def __call__(self, name: str, _geometry: Geometry) -> Array:
        values = next((self.table[key] for key in keys_of(name) if key in self.table), None)
        if values is None:
            raise DataError(f"inputs.{self.info.name}: {self.place} has no row for {name}", do="add the row")
        shape = [axis for axis in self.info.shape if isinstance(axis, int)]
        rest = [axis for axis in self.info.shape[1:] if isinstance(axis, int)]
        free = sum(isinstance(axis, str) for axis in self.info.shape)
        if len(rest) == max(len(self.info.shape) - 1, 0) and math.prod(rest) == len(values) and self.info.shape:
            shape = rest
        elif free or math.prod(shape) != len(values):
            raise DataError(
                f"inputs.{self.info.name}: {len(values)} columns do not fill an input of shape {list(self.info.shape)}",
                expected=f"{math.prod(rest)} columns",
            )
        given = np.array(values)
        if np.dtype(self.info.dtype).kind in "iu":
            if not np.array_equal(given, np.rint(given)):
                raise DataError(
                    f"inputs.{self.info.name}: {self.place}, {name}: not whole numbers", expected=self.info.dtype
                )
            given = given.astype(np.int64)
        return cast(self.info, given, f"inputs.{self.info.name}: {name}").reshape(shape)


@dataclass(frozen=True)
class Arrays:
    """An ``.npy`` for each image."""

    info: TensorInfo
    files: Files

    def __call__(self, name: str, _geometry: Geometry) -> Array:
        path = self.files.of(name)
        try:
            array = np.asarray(np.load(path, allow_pickle=False))
        except BROKEN_ARRAY as error:
            raise DataError(
                f"inputs.{self.info.name}: {path} cannot be read: {error}", do="save it with numpy.save"
            ) from None
        array = cast(self.info, array, str(path))
        wanted = list(self.info.shape)
        if not (wanted and fits(array.shape, wanted[1:])) and not fits(array.shape, wanted):
            raise DataError(
                f"{path} has shape {list(array.shape)}, input {self.info.name!r} has {wanted}",
                expected=f"{wanted[1:]} for one image" if wanted and isinstance(wanted[0], str) else f"{wanted}",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{path} holds NaN or infinity", do="repair or remove it")
        return array


@dataclass(frozen=True)
class Camera:
    """Another camera's picture, preprocessed."""

    files: Files
    steps: Preprocess
    size: tuple[int, int]

    def __call__(self, name: str, _geometry: Geometry) -> Array:
        path = self.files.of(name)
        try:
            picture = open_picture(path.read_bytes(), self.steps, str(path))
        except OSError as error:
            raise CorruptImage(str(path), f"cannot be read: {error.strerror}") from None
        return apply(picture, self.steps, self.size)[0]
