"""Calibration frames on their way in: split, checked, hashed, recognized when they are also in the evaluation set."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeship.data.npz import open_npz
from edgeship.errors import DataError
from edgeship.files import sha256_json
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    Array = NDArray[Any]
    Feeds = Mapping[str, Array]
    FrameBatch = tuple[Sequence[str], Feeds]
    """Frame ids, and input name → array with the frames along its first axis."""


SAMPLES = 8
"""Frames kept beside the cache …"""
SAMPLE_BYTES = 64 << 20
"""… within this size, whole batches, at least one."""


ROWS = 8
"""Frames in the batch on which ModelOpt decides what gains by INT8, unless told otherwise."""


class FrameSource(Protocol):
    """Real frames in batches: iteration yields (ids, {input: array}), each time the same; ``len`` counts frames.

    Arrays carry the frames along their first axis, one for each id. :class:`edgeship.data.frames.Frames` is one.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[FrameBatch]: ...


class Batches:
    """Ready batches as :class:`FrameSource`."""

    def __init__(self, batches: Sequence[FrameBatch]) -> None:
        self._batches = tuple(batches)

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._batches)

    def __iter__(self) -> Iterator[FrameBatch]:
        return iter(self._batches)


class Held:
    """Every n-th batch of a source, or all the others: both parts see the whole recording.

    Args:
        share: Share of the batches in the held-out part, at most a half: every n-th, n = 1 / share rounded. 0 holds
            out nothing, and of a single batch nothing can be.
        inside: Whether this is the held-out part.
    """

    def __init__(self, frames: Iterable[FrameBatch], share: float, *, inside: bool) -> None:
        self._frames = frames
        self._held = held_at(share)
        self._inside = inside

    def __iter__(self) -> Iterator[FrameBatch]:
        for position, batch in enumerate(self._frames):
            if self._held(position) == self._inside:
                yield batch


HELD_BYTES = 128 << 20
"""Held-out batches kept in memory, at most: 222 frames of 3 x 224 x 224 in float32."""


class Kept:
    """All batches of a source; the first held-out ones are kept as they pass, so that they need not be decoded again.

    Args:
        share: As in :class:`Held`.
        room: Bytes of batches that are kept; what is beyond is gone through in the source again.
    """

    def __init__(self, frames: FrameSource, share: float, room: int = HELD_BYTES) -> None:
        self._frames, self._share, self._most = frames, share, room
        self._batches: list[FrameBatch] = []
        self._count = 0
        self._whole = False

    def __iter__(self) -> Iterator[FrameBatch]:
        self._batches, self._count, self._whole = [], 0, False
        room, held = self._most, held_at(self._share)
        for position, batch in enumerate(self._frames):
            if held(position):
                room -= sum(array.nbytes for array in batch[1].values())
                if room >= 0:
                    self._batches.append(batch)
                    self._count += max(len(batch[0]), 1)
            yield batch
        self._whole = room >= 0

    def held(self, limit: int | None = None) -> Iterable[FrameBatch]:
        """The held-out batches, to be gone through several times.

        ``limit``: how many frames of them are looked at, at most; None: all.
        """
        if self._whole or (limit is not None and self._count >= limit):
            return self._batches
        return Held(self._frames, self._share, inside=True)

    def judges(self, limit: int) -> Iterable[FrameBatch]:
        """As :meth:`held`; all batches where none are held out."""
        held = self.held(limit)
        return held if any(True for _ in held) else self._frames


def held_at(share: float) -> Callable[[int], bool]:
    """Whether the batch at a position is held out by :class:`Held`."""
    every = max(2, round(1 / share)) if share > 0 else 0
    return lambda position: every > 0 and position % every == 1


def pack(batches: Iterable[Feeds]) -> bytes:
    """Batches as one .npz: ``<number>/<input>``."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"{n}/{name}": array for n, feeds in enumerate(batches) for name, array in feeds.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack(path: Path) -> list[dict[str, Array]]:
    """What :func:`pack` packed. Raises DataError as :func:`edgeship.data.npz.open_npz` does."""
    batches: dict[str, dict[str, Array]] = {}
    for key, array in open_npz(path).items():
        number, _, name = key.partition("/")
        batches.setdefault(number, {})[name] = array
    return list(batches.values())


class FrameChecks:
    """Checks every batch as it passes and remembers what identifies the frames.

    Args:
        inputs: The model's inputs.
        hashes: Frame id → hash of its image file; other frames are hashed by their arrays.
    """

    def __init__(self, inputs: Sequence[TensorInfo], hashes: Mapping[str, str]) -> None:
        self._inputs = inputs
        self._known = hashes
        self._hashes: list[tuple[str, str]] = []
        self._alive = False
        self.samples: list[FrameBatch] = []
        """The first few frames, for running a graph on real frames later."""
        self._room = SAMPLE_BYTES

    def passing(self, batches: Iterable[FrameBatch]) -> Iterator[FrameBatch]:
        """The batches, checked.

        Raises:
            DataError: A missing input, a frame of another size or channel count, too few frames for a fixed batch,
                NaN or infinity in a frame.
        """
        for ids, feeds in batches:
            check_feeds(self._inputs, ids, feeds)
            for index, name in enumerate(ids):
                self._hashes.append((name, self._known.get(name) or _array_hash(feeds, index, len(ids))))
            self._alive = self._alive or any(np.any(array) for array in feeds.values())
            self._sample(ids, feeds)
            yield ids, feeds

    def _sample(self, ids: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> None:
        size = sum(array.nbytes for array in feeds.values())
        if not self.samples or (size <= self._room and sum(len(names) for names, _ in self.samples) < SAMPLES):
            self.samples.append((tuple(ids), dict(feeds)))
            self._room -= size

    def refuse_useless(self) -> None:
        """Raise DataError when no frame passed, or when every value of every frame was zero."""
        if not self._hashes:
            raise DataError(
                "no calibration frames",
                expected="frames from the deployment camera, a few hundred",
                do="give a folder of images with --images, or arrays with --npz; random data is never used",
            )
        if not self._alive:
            raise DataError(
                f"all {self.count} calibration frames are black: every input value is zero",
                expected="frames with something in them",
                do="check the recording and the preprocessing (a missing scale turns 8-bit images into zeros)",
            )

    @property
    def count(self) -> int:
        """Frames that passed."""
        return len(self._hashes)

    @property
    def sha256(self) -> str:
        """One hash of all frames, whatever the order in which they passed."""
        return sha256_json(sorted(digest for _, digest in self._hashes))

    def overlap(self, evaluation: frozenset[str]) -> tuple[str, ...]:
        """Names of the frames whose hash is in ``evaluation``."""
        return tuple(sorted(name for name, digest in self._hashes if digest in evaluation))


def stacked(frames: Sequence[FrameBatch], inputs: Sequence[TensorInfo], rows: int) -> FrameBatch:
    """The first frames as one batch of ``rows`` of them, from the beginning again when they run out.

    The first batch stays as it is where it is large enough, and where the model's batch is fixed or an input has none.
    """
    fixed = any(not info.shape or isinstance(info.shape[0], int) for info in inputs)
    ids, feeds = frames[0]
    if fixed or len(ids) >= rows or not _rows_of_frames(frames):
        return frames[0]
    names = [name for batch, _ in frames for name in batch]
    joined = {name: np.concatenate([some[name] for _, some in frames]) for name in feeds}
    order = [index % len(names) for index in range(rows)]
    return [names[index] for index in order], {name: array[order] for name, array in joined.items()}


def _rows_of_frames(frames: Sequence[FrameBatch]) -> bool:
    """Whether every array has one row for each frame."""
    return all(array.ndim and len(array) == len(ids) for ids, feeds in frames for array in feeds.values())


def _array_hash(feeds: Mapping[str, NDArray[Any]], index: int, count: int) -> str:
    digest = hashlib.sha256()
    for name in sorted(feeds):
        array = feeds[name]
        row = array[index] if array.ndim and array.shape[0] == count else array
        digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def check_feeds(inputs: Sequence[TensorInfo], ids: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Compare a batch with the model's inputs. Raises DataError as :meth:`FrameChecks.passing` does."""
    first = ids[0] if ids else "?"
    missing = [info.name for info in inputs if info.name not in feeds]
    if missing:
        raise DataError(
            f"frames bring {', '.join(sorted(feeds)) or 'nothing'}; the model also needs {', '.join(missing)}",
            do="give one array for each input of the model",
        )
    for info in inputs:
        array = feeds[info.name]
        found, want = array.shape, info.shape
        if len(found) == len(want) and isinstance(want[0] if want else None, int) and found[0] < int(want[0]):
            raise DataError(
                f"{found[0]} frames from {first} on, the model takes batches of exactly {want[0]}",
                expected=f"a multiple of {want[0]} frames",
                do="add frames, or export the model with a dynamic batch axis",
            )
        fits = len(found) == len(want) and all(
            isinstance(axis, str) or axis == length for axis, length in zip(want, found, strict=True)
        )
        if not fits:
            raise DataError(
                f"frame {first}: input {info.name!r} has shape {list(found)}",
                expected=str(list(want)),
                do="set the preprocessing's size, color and layout to the model's input",
            )
        if array.dtype.name != info.dtype:
            raise DataError(
                f"frame {first}: input {info.name!r} has dtype {array.dtype}",
                expected=info.dtype,
                do="convert the frames",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array).reshape(found[0], -1).all(axis=1)) if array.ndim else [0]
            name = ids[int(bad[0])] if found and found[0] == len(ids) else first
            raise DataError(
                f"frame {name}: input {info.name!r} holds NaN or infinity", do="repair or remove that frame"
            )
