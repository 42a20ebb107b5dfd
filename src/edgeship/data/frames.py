"""Unlabelled frames for parity, calibration and benchmarks: chosen the same way every time, streamed in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeship.config import Preprocess
from edgeship.data import rows
from edgeship.data.beside import Which, beside, require_declared, single
from edgeship.data.loader import Item, Loader, LoadOptions
from edgeship.data.memory import Memories, in_sequences, sequence_of
from edgeship.data.npz import open_npz
from edgeship.data.preprocess import SUFFIXES, in_dtype, input_size
from edgeship.data.raw import SUFFIXES as RAW
from edgeship.data.reference import is_reference
from edgeship.errors import DataError
from edgeship.files import sha256_file, sha256_json, walk
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


class Stepping(Protocol):
    """An open engine, as far as memory needs one."""

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...


Opened = Callable[[], AbstractContextManager[Stepping]]


@dataclass
class Frames:
    """A choice of frames, ready to be fed to a model. Iterating again gives the same batches.

    Iteration yields ``(ids, {input name: array [n, …]})``.
    """

    ids: tuple[str, ...]
    items: rows.Items
    """Images to preprocess; empty when ``feeds`` holds ready arrays."""
    inputs: tuple[TensorInfo, ...]
    preprocess: Preprocess | None
    options: LoadOptions
    feeds: dict[str, Array] = field(default_factory=dict)
    """Ready arrays by input name, already restricted to the choice."""
    skipped: list[str] = field(default_factory=list)
    """Corrupt images of the last full iteration."""
    which: Which = "calibration"
    """The set whose values the inputs beside the image take."""
    group: str | None = None
    """What ``evaluation.group`` says of sequences."""
    opened: Opened | None = None
    """Opens the model as it is before any conversion: memory is what it gives on the frames before."""

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each frame's file, or of its pixels or ready arrays, in order."""
        if self.feeds:
            return tuple(
                sha256_json([[name, _digest(_row(array, row))] for name, array in sorted(self.feeds.items())])
                for row in range(len(self.ids))
            )
        return tuple(image_hash(item) for item in self.items)

    @property
    def hashed(self) -> frozenset[str]:
        """What the hashes are of: a picture has another hash as a file than as pixels or as a ready array."""
        if self.feeds:
            return frozenset(["ready arrays"])
        return frozenset("files" if isinstance(item.source, Path) else "pixels" for item in self.items)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], dict[str, Array]]]:
        if self.feeds:
            for start in range(0, len(self.ids), self.options.batch):
                part = slice(start, start + self.options.batch)
                yield self.ids[part], {name: _row(array, part) for name, array in self.feeds.items()}
            return
        if self.preprocess is None:
            raise DataError("images need [preprocess] to become model inputs", do="add a [preprocess] table")
        info = require_declared(self.inputs, self.preprocess)
        settings = in_dtype(self.preprocess, info)
        others = beside(self.inputs, self.preprocess, self.which, rows.names_of(self.items))
        alone = self.preprocess.state or single(self.inputs, self.preprocess)
        options = replace(self.options, batch=1) if alone else self.options
        loader = Loader(self.items, settings, input_size(info, self.preprocess), options, others)
        if self.preprocess.state:
            yield from self._steps(loader, info.name, self.preprocess)
        else:
            for batch in loader:
                yield batch.ids, batch.feeds(self.inputs, info.name)
        self.skipped = [error.name for error in loader.skipped]

    def _steps(
        self, loader: Loader, image: str, preprocess: Preprocess
    ) -> Iterator[tuple[tuple[str, ...], dict[str, Array]]]:
        """Frame after frame with the memory that stands before it."""
        memories, sequence = Memories(self.inputs, preprocess), sequence_of(self.group)
        if self.opened is None:
            raise DataError(
                "memory comes from running the model over the frames before",
                expected="edgeship ship, or ready arrays for every input",
                do="give --npz with an array for each input",
            )
        with self.opened() as runner:
            for batch in loader:
                feeds, _ = memories.step(runner.infer, batch.feeds(self.inputs, image), sequence(batch.ids[0]))
                yield batch.ids, feeds


@dataclass(frozen=True)
class FrameChoice:
    """How many frames to take. They are spread evenly over the sorted names; ``seed`` shifts the choice."""

    count: int | None = None
    batch: int = 8
    seed: int = 0
    allow_corrupt: int = 0
    workers: int | None = None
    which: Which = "calibration"
    """The set to which they belong: where the values of the inputs beside the image are read."""
    group: str | None = None
    """For a model with memory: what says which frames are one sequence (``evaluation.group``)."""
    opened: Opened | None = None
    """For a model with memory: opens it, to see what it remembers."""


def frames(source: Path, preprocess: Preprocess | None, inputs: Sequence[TensorInfo], choice: FrameChoice) -> Frames:
    """Choose frames for a model.

    Args:
        source: A folder of images (searched in depth), an ``.npz`` of raw images (``images``: uint8 [N, H, W] or
            [N, H, W, 3]) or of ready arrays (one for each input, by its name), or ``module:callable`` that gives
            images (see :mod:`edgeship.data.rows`).
        preprocess: Needed for images.
        inputs: The model's inputs, as read from the artifact.
        choice: How many, and which.

    Raises:
        DataError: Absent, empty, unreadable, or not fitting the inputs.
    """
    options = LoadOptions(choice.batch, choice.workers, choice.allow_corrupt)
    if not is_reference(source) and source.suffix == ".npz":
        arrays = open_npz(source)
        names = [info.name for info in inputs]
        raw = preprocess is not None and "images" in arrays and _raw_images(arrays["images"], inputs)
        if set(names) <= set(arrays) and not raw:
            return _ready(source, {name: arrays[name] for name in names}, inputs, choice)
        if "images" not in arrays:
            raise DataError(
                f"{source} holds {', '.join(sorted(arrays)) or 'nothing'}",
                expected=f"one array for each input ({', '.join(names)}), or raw images under the name 'images'",
            )
        stack = arrays["images"]
        items = [Item(f"{source.name}[{row}]", stack[row]) for row in spread(len(stack), choice.count, choice.seed)]
    elif is_reference(source):
        return _custom(str(source), preprocess, inputs, choice)
    else:
        paths = image_files(source)
        chosen = [paths[row] for row in _chosen(source, paths, preprocess, choice)]
        items = [Item(path.relative_to(source).as_posix(), path) for path in chosen]
    if not items:
        raise _no_frames(source)
    ids = tuple(item.id for item in items)
    return Frames(ids, tuple(items), tuple(inputs), preprocess, options, **_roles(choice))


def _chosen(source: Path, paths: Sequence[Path], preprocess: Preprocess | None, choice: FrameChoice) -> list[int]:
    """Frames spread evenly; for a model with memory, whole sequences."""
    if preprocess is None or not preprocess.state:
        return spread(len(paths), choice.count, choice.seed)
    names = [path.relative_to(source).as_posix() for path in paths]
    return in_sequences(names, list(map(sequence_of(choice.group), names)), choice.count)


def spread(total: int, count: int | None, seed: int = 0) -> list[int]:
    """``count`` indices spread evenly over ``range(total)``, shifted by a seeded fraction; all when count is None."""
    if count is None or count >= total:
        return list(range(total))
    shift = np.random.default_rng(seed).random() if seed else 0.5
    return [int((step + shift) * total / count) for step in range(count)]


def image_files(folder: Path) -> list[Path]:
    """The image files below ``folder``, sorted by relative path: encoded images, or raw dumps of a camera. Hidden
    files and folders are left out, links to folders are followed.

    Raises:
        DataError: Absent, no folder, unreadable, without any image, or with encoded images and raw dumps.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"the image folder {folder} {what}", do="name a folder of images")
    files = sorted(walk(folder))
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    dumps = [path for path in files if path.suffix.lower() in RAW]
    if found and dumps:
        raise DataError(
            f"{folder} holds {len(found)} images, such as {found[0].name}, and {len(dumps)} raw dumps, such as "
            f"{dumps[0].name}",
            expected="one kind, so that every frame is converted alike",
            do="move one of them elsewhere",
        )
    found = found or dumps
    if not found:
        inside = sorted(path.name for path in folder.iterdir())[:5]
        holds = f"it holds {', '.join(inside)}" if inside else "it is empty"
        raise DataError(
            f"no images in {folder}: {holds}",
            expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
            do="fix the path, or put images there",
        )
    return found


def _raw_images(stack: Array, inputs: Sequence[TensorInfo]) -> bool:
    """Whether ``images`` holds 8-bit pictures rather than values for an input of that name."""
    same = [
        info for info in inputs if info.name == "images" and info.dtype == "uint8" and len(info.shape) == stack.ndim
    ]
    return stack.dtype == np.uint8 and stack.ndim in (3, 4) and not same


def _ready(source: Path, feeds: dict[str, Array], inputs: Sequence[TensorInfo], choice: FrameChoice) -> Frames:
    whole = {info.name for info in inputs if not info.shape}
    lengths = {name: len(array) if array.ndim else 0 for name, array in feeds.items() if name not in whole}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DataError(f"the arrays of {source} have {lengths} rows", expected="the same number, at least one")
    for info in inputs:
        array = feeds[info.name]
        fits = array.ndim == len(info.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(info.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or array.dtype != np.dtype(info.dtype):
            raise DataError(
                f"{source}: {info.name!r} has shape {list(array.shape)} and dtype {array.dtype}",
                expected=f"{list(info.shape)}, {info.dtype}",
            )
    chosen = spread(next(iter(lengths.values())), choice.count, choice.seed)
    taken = {name: array if name in whole else array[chosen] for name, array in feeds.items()}
    ids = tuple(f"{source.name}[{row}]" for row in chosen)
    return Frames(ids, (), tuple(inputs), None, LoadOptions(choice.batch), feeds=taken)


def _row(array: Array, part: int | slice) -> Array:
    """Some frames of an array; one without axes belongs to all of them."""
    return np.ascontiguousarray(array[part]) if array.ndim else array


def _custom(source: str, preprocess: Preprocess | None, inputs: Sequence[TensorInfo], choice: FrameChoice) -> Frames:
    def item(number: int, row: Any) -> Item:
        image = row[0] if isinstance(row, tuple) else row
        return Item(rows.name_of(source, number, image), image)

    ids = [item(number, row).id for number, row in rows.read(source)]
    if not ids:
        raise _no_frames(source)
    numbers = spread(len(ids), choice.count, choice.seed)
    options = LoadOptions(choice.batch, choice.workers, choice.allow_corrupt)
    chosen = tuple(ids[number] for number in numbers)
    taken = rows.Rows(source, numbers, item)
    return Frames(chosen, taken, tuple(inputs), preprocess, options, **_roles(choice))


def _roles(choice: FrameChoice) -> dict[str, Any]:
    return {"which": choice.which, "group": choice.group, "opened": choice.opened}


def _no_frames(source: str | Path) -> DataError:
    return DataError(f"{source} gives no frames", do="name a folder with frames from the deployment camera")


def image_hash(item: Item) -> str:
    """SHA-256 of an image's file, or of its pixels.

    Raises:
        DataError: The file cannot be read.
    """
    picture = item.picture()
    return _file_hash(picture) if isinstance(picture, Path) else _digest(np.asarray(picture))


def not_comparable(frames: Frames, others: Frames) -> tuple[str, ...]:
    """A sentence when frames of one cannot be recognized among the others, because their hashes are of other things."""
    if len(frames.hashed | others.hashed) == 1:
        return ()
    kinds = [" and ".join(sorted(item.hashed)) for item in (frames, others)]
    return (
        f"Frames that stand in both sets were not all recognizable: the calibration frames are {kinds[0]}, the "
        f"evaluation images {kinds[1]}, and a picture has another hash in each form.",
    )


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _file_hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", do="change its permissions or remove it") from None
