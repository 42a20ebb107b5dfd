"""What a training step gets: frames preprocessed as everywhere, or the batches of the user's loader."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from edgeship.data.frames import Frames
from edgeship.data.reference import user_code
from edgeship.errors import TrainingError

Batch = Any
"""A tensor, or a tuple, list or dict that holds tensors; ``step`` gets it as the loader gave it."""


@dataclass(frozen=True)
class FrameBatches:
    """Frames in an order that is shuffled anew in every epoch, as tuples of tensors in call order."""

    frames: Frames
    names: tuple[str, ...]
    """The graph's inputs in the order of ``forward``."""
    seed: int
    rank: int = 0
    size: int = 1
    """Of the processes that train together: each step's frames are theirs in turn, and none has those of another."""

    def epoch(self, number: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """This process's whole batches of an epoch, the same for the same seed and number."""
        size = self.frames.options.batch
        order = np.random.default_rng([self.seed, number]).permutation(len(self.frames))
        steps = order[: len(self) * self.size * size].reshape(len(self), self.size, size)
        mine = steps[:, self.rank]
        for rows in mine if self.frames.feeds else [mine.ravel()]:  # arrays are not copied whole
            for _, feeds in shuffled(self.frames, rows):
                if len(next(iter(feeds.values()))) == size:
                    yield tuple(torch.from_numpy(feeds[name]) for name in self.names)

    def __len__(self) -> int:
        return len(self.frames) // (self.frames.options.batch * self.size)


def shuffled(frames: Frames, order: Sequence[int] | np.ndarray[Any, Any]) -> Frames:
    """The frames in another order, or some of them."""
    ids = tuple(frames.ids[row] for row in order)
    if frames.feeds:
        return replace(frames, ids=ids, feeds={name: array[list(order)] for name, array in frames.feeds.items()})
    items = frames.items
    if not isinstance(items, tuple):
        raise TrainingError(
            "qat.images names a function, whose images cannot be shuffled",
            expected="a folder, an .npz, or qat.data for a loader of your own",
        )
    return replace(frames, ids=ids, items=tuple(items[row] for row in order))


@dataclass(frozen=True)
class LoaderBatches:
    """The batches of the user's ``module:callable``, called once an epoch."""

    name: str
    make: Callable[[], Iterable[Batch]]
    size: int = 1
    """How many processes train together: all go through the same batches, and each takes every ``size``-th."""

    def all(self) -> Iterator[Batch]:
        """The batches, in the order in which the loader gives them.

        Raises:
            TrainingError: It gives no iterable.
        """
        made = self.make()
        if not isinstance(made, Iterable):
            raise TrainingError(f"{self.name} returned {type(made).__name__}", expected="an iterable of batches")
        with user_code(self.name):
            yield from made

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of every step, one for each process. The last ones, which are too few for all, are left out."""
        given = self.all()
        while len(step := list(islice(given, self.size))) == self.size:
            yield step


Batches = FrameBatches | LoaderBatches


def fingerprint(batch: Batch) -> float:
    """A number that is another one for a batch with other tensors."""
    found = hashlib.sha256()
    for tensor in _tensors(batch):
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return float(int.from_bytes(found.digest()[:6], "big"))


def _tensors(batch: Batch) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, dict | tuple | list):
        for item in batch.values() if isinstance(batch, dict) else batch:
            yield from _tensors(item)


def inputs_of(batch: Batch, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """The model's inputs in a batch: a tensor itself, the first parts of a tuple, or a dict's values by name.

    Raises:
        TrainingError: They are not there.
    """
    found: tuple[Any, ...] = ()
    if isinstance(batch, torch.Tensor):
        found = (batch,)
    elif isinstance(batch, dict):
        found = tuple(batch.get(name) for name in names)
    elif isinstance(batch, tuple | list):
        found = tuple(batch[: len(names)])
    if len(found) != len(names) or not all(isinstance(item, torch.Tensor) for item in found):
        raise TrainingError(
            f"a batch is {_kind(batch)}, in which {', '.join(names)} cannot be found",
            expected="a tensor, a tuple that begins with the inputs, or a dict with the inputs' names",
        )
    return found


def require_shapes(inputs: Sequence[torch.Tensor], specs: Sequence[tuple[str, Sequence[int | str]]]) -> None:
    """Refuse a batch of another shape than the model was exported with. Raises TrainingError."""
    for tensor, (name, shape) in zip(inputs, specs, strict=True):
        fits = tensor.ndim == len(shape) and all(
            isinstance(want, str) or want == have for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise TrainingError(
                f"a batch holds {list(tensor.shape)} for {name!r}",
                expected=f"[{', '.join(map(str, shape))}], as the model was exported",
                do="change the loader, or qat.batch where the batch is fixed",
            )


def ahead(batches: Iterator[tuple[torch.Tensor, ...]]) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same batches in page-locked memory, each made by another thread while the one before is trained on."""

    def following() -> tuple[torch.Tensor, ...] | None:
        batch = next(batches, None)
        return None if batch is None else tuple(tensor.pin_memory() for tensor in batch)

    with ThreadPoolExecutor(1) as other:
        coming = other.submit(following)
        while (batch := coming.result()) is not None:
            coming = other.submit(following)
            yield batch


def on_device(batch: Batch, device: str) -> Batch:
    """The batch with every tensor on a device; from page-locked memory without waiting for it."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=not batch.is_cuda)
    if isinstance(batch, dict):
        return {name: on_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(on_device(value, device) for value in batch)
    return batch


def split(count: int, share: float, most: int = 256) -> tuple[list[int], list[int]]:
    """(rows to train on, rows held out): every n-th is held out, at least one, at most ``most``."""
    every = max(2, round(1 / share) if share > 0 else 8, math.ceil(count / most))
    held = list(range(every - 1, count, every)) or [count - 1]
    return [row for row in range(count) if row not in set(held)], held


def _kind(batch: Batch) -> str:
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a dict of {', '.join(map(str, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
