"""Images decoded ahead in worker threads, in order, within bounded memory.

Pillow and numpy release the interpreter lock while they decode, resize and convert, so threads suffice.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from edgeship.config import Preprocess
from edgeship.data.beside import Beside, stacked
from edgeship.data.preprocess import CorruptImage, Geometry, apply, input_shape, open_picture
from edgeship.errors import DataError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


NOTHING = Beside()
MOST_WORKERS = 8


@dataclass(frozen=True)
class Item:
    """One image and what is known of it.

    ``source`` is a file, a decoded array, or a function that gives one; ``target`` is what the task needs, or a
    function of the image's :class:`Geometry` that reads it in the worker thread.
    """

    id: str
    source: Path | Array | Callable[[], Array]
    target: Any = None

    def picture(self) -> Path | Array:
        """The file, or the decoded array."""
        return np.asarray(self.source()) if callable(self.source) else self.source


@dataclass(frozen=True)
class Loaded:
    """One preprocessed image. ``digest`` is the SHA-256 of its file, or of its pixels; ``others`` the values of the
    inputs beside it, by name."""

    id: str
    digest: str
    array: Array
    geometry: Geometry
    target: Any
    others: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Preprocessed images in order; ``array`` is [n, …] with n at most the batch that was asked for."""

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    array: Array
    geometries: tuple[Geometry, ...]
    targets: tuple[Any, ...]
    others: tuple[Mapping[str, Array], ...] = ()

    def feeds(self, inputs: Sequence[TensorInfo], image: str) -> dict[str, Array]:
        """An array for each input, the images under the name ``image``. Raises DataError as :func:`stacked` does."""
        return feeds_of(inputs, image, self.array, self.others)


def feeds_of(
    inputs: Sequence[TensorInfo], image: str, array: Array, others: Sequence[Mapping[str, Array]]
) -> dict[str, Array]:
    """An array for each input: the images [n, …], and what stands beside them."""
    beside = {info.name: info for info in inputs if others and info.name in others[0]}
    return {image: array} | {name: stacked(info, [row[name] for row in others]) for name, info in beside.items()}


@dataclass(frozen=True)
class LoadOptions:
    """How to load. ``workers`` None: one for each core this process may use, at most eight."""

    batch: int = 8
    workers: int | None = None
    allow_corrupt: int = 0


def digest_of(picture: Path | Array) -> str:
    """The SHA-256 of an image's file, or of its pixels: ``Loaded.digest``. Raises OSError."""
    if isinstance(picture, Path):
        return hashlib.sha256(picture.read_bytes()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(picture).data).hexdigest()


def load(
    item: Item,
    preprocess: Preprocess,
    size: tuple[int, int],
    out: Array | None = None,
    beside: Beside = NOTHING,
) -> Loaded:
    """Read, decode and preprocess one image, into ``out`` where it is given, and read what stands beside it.

    Raises:
        CorruptImage: It cannot be decoded.
        DataError: Its target, or the value of another input, does not fit it.
    """
    picture = item.picture()
    if isinstance(picture, Path):
        try:
            content = picture.read_bytes()
        except OSError as error:
            raise CorruptImage(str(picture), f"cannot be read: {error.strerror}") from None
        digest = hashlib.sha256(content).hexdigest()
        array, geometry = apply(open_picture(content, preprocess, str(picture)), preprocess, size, out)
    else:
        pixels = np.asarray(picture)
        digest = digest_of(pixels)
        array, geometry = apply(pixels, preprocess, size, out)
    target = item.target(geometry) if callable(item.target) else item.target
    return Loaded(item.id, digest, array, geometry, target, beside(item.id, geometry))


class Loader:
    """Batches of preprocessed images, in order, decoded ahead.

    Corrupt images are left out and named in ``skipped``; more than ``allow_corrupt`` of them raise DataError.
    Images are decoded into the rows of their batch. At most three batches and two images a worker stand in memory
    beyond the batch in use.
    """

    def __init__(
        self,
        items: Iterable[Item],
        preprocess: Preprocess,
        size: tuple[int, int],
        options: LoadOptions,
        beside: Beside = NOTHING,
    ) -> None:
        self._items = items
        self._preprocess = preprocess
        self._size = size
        self._options = options
        self._beside = beside
        self.skipped: list[CorruptImage] = []

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        with ThreadPoolExecutor(1, thread_name_prefix="edgeship-batch") as pool:
            coming = pool.submit(next, batches, None)
            try:
                while (batch := coming.result()) is not None:
                    coming = pool.submit(next, batches, None)
                    yield batch
            finally:
                wait([coming])
                batches.close()

    def _batches(self) -> Generator[Batch, None, None]:
        pending: list[Loaded] = []
        for loaded in self._loaded():
            pending.append(loaded)
            if len(pending) == self._options.batch:
                yield self._collate(pending)
                pending = []
        if pending:
            yield self._collate(pending)

    def _loaded(self) -> Iterator[Loaded]:
        workers = self._options.workers or default_workers()
        window: deque[Future[Loaded]] = deque()
        ahead = self._options.batch + 2 * workers
        shape = (self._options.batch, *input_shape(self._preprocess, self._size))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeship-decode")
        keep_memory(2 * workers)
        try:
            for number, item in enumerate(self._items):
                row = number % self._options.batch
                if row == 0:
                    whole = np.empty(shape, dtype=self._preprocess.dtype)
                window.append(pool.submit(load, item, self._preprocess, self._size, whole[row], self._beside))
                if len(window) > ahead:
                    yield from self._next(window)
            while window:
                yield from self._next(window)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, window: deque[Future[Loaded]]) -> Iterator[Loaded]:
        try:
            yield window.popleft().result()
        except CorruptImage as error:
            self.skipped.append(error)
            if len(self.skipped) > self._options.allow_corrupt:
                raise DataError(
                    f"{len(self.skipped)} corrupt image{'s' if len(self.skipped) > 1 else ''} so far: "
                    + "; ".join(f"{item.name}: {item.reason}" for item in self.skipped[:10]),
                    expected=f"at most {self._options.allow_corrupt} (allow_corrupt)",
                    do="replace or remove the files, or raise allow_corrupt",
                ) from None

    def _collate(self, items: list[Loaded]) -> Batch:
        """Without a skipped image, the items are the rows of the array that they were decoded into."""
        whole = items[0].array.base
        return Batch(
            ids=tuple(item.id for item in items),
            digests=tuple(item.digest for item in items),
            array=np.stack([item.array for item in items]) if self.skipped or whole is None else whole[: len(items)],
            geometries=tuple(item.geometry for item in items),
            targets=tuple(item.target for item in items),
            others=tuple(item.others for item in items),
        )


def keep_memory(blocks: int) -> None:
    """Let Pillow use the memory of pictures again, that many blocks of at most 16 MiB, instead of asking the system for
    each picture's: every page that is new costs a fault (seen at 640×480: a tenth of the time of an image)."""
    pillow: Any = vars(Image)["core"]  # its documented place, which its types do not tell
    pillow.set_blocks_max(max(blocks, pillow.get_blocks_max()))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One thread for each core this process may use, at most eight."""
    return min(MOST_WORKERS, cores())
