"""Calibration frames on their way in: split, checked, hashed, recognized when they also stand in the evaluation set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeship.errors import DataError
from edgeship.files import sha256_json
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.prepare.observe import Batch


class Frames(Protocol):
    """Batches of real frames: (ids, {input: array}). Iterated several times; ``len`` is the number of batches.

    A plain list of such pairs is one. Arrays carry the frames along their first axis, one for each id.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def split(frames: Frames, holdout: float) -> tuple[range, frozenset[int]]:
    """Positions of all batches, and those held out: every n-th, so that both parts see the whole recording.

    Raises:
        DataError: No frames.
    """
    count = len(frames)
    if count == 0:
        raise DataError(
            "no calibration frames",
            expected="frames from the deployment camera, a few hundred",
            do="give a folder of images with --images, or arrays with --npz; random data is never used",
        )
    wanted = max(1, round(count * holdout)) if holdout > 0 and count > 1 else 0
    held = frozenset(round((index + 0.5) * count / wanted - 0.5) for index in range(wanted))
    return range(count), held


class Part:
    """Some batches of a source, by position; iterated like the source itself."""

    def __init__(self, frames: Iterable[Batch], positions: frozenset[int]) -> None:
        self._frames = frames
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Batch]:
        for position, batch in enumerate(self._frames):
            if position in self._positions:
                yield batch


class Intake:
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

    def passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
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
            yield ids, feeds

    @property
    def count(self) -> int:
        """Frames that passed."""
        return len(self._hashes)

    @property
    def sha256(self) -> str:
        """One hash of all frames, whatever the order in which they passed."""
        return sha256_json(sorted(digest for _, digest in self._hashes))

    def overlap(self, evaluation: frozenset[str]) -> tuple[str, ...]:
        """Names of the frames whose hash stands in ``evaluation``."""
        return tuple(sorted(name for name, digest in self._hashes if digest in evaluation))

    def refuse_black(self) -> None:
        """Raise DataError when every value of every frame was zero."""
        if not self._alive:
            raise DataError(
                f"all {self.count} calibration frames are black: every input value is zero",
                expected="frames with something in them",
                do="check the recording and the preprocessing (a missing scale turns 8-bit images into zeros)",
            )


def _array_hash(feeds: Mapping[str, NDArray[Any]], index: int, count: int) -> str:
    digest = hashlib.sha256()
    for name in sorted(feeds):
        array = feeds[name]
        row = array[index] if array.ndim and array.shape[0] == count else array
        digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def check_feeds(inputs: Sequence[TensorInfo], ids: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Compare a batch with the model's inputs. Raises DataError as :meth:`Intake.passing` does."""
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
