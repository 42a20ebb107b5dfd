"""Images decoded ahead: in order, within bounds, and nothing left running."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgeship.config import Preprocess
from edgeship.data.loader import Item, Loader, LoadOptions
from edgeship.errors import DataError

GRAY = Preprocess(fit="stretch", color="gray")


def shades(count: int, loaded: list[int] | None = None) -> list[Item]:
    """4×4 pictures; the brightness is the number. ``loaded`` hears which were asked for."""

    def picture(number: int) -> np.ndarray:
        if loaded is not None:
            loaded.append(number)
        return np.full((4, 4), number, np.uint8)

    return [Item(str(number), lambda number=number: picture(number), number) for number in range(count)]


def decoders() -> list[str]:
    """Names of the loader's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeship-")]


def test_batches_are_in_order_and_the_last_is_short() -> None:
    batches = list(Loader(shades(10), GRAY, (4, 4), LoadOptions(batch=4, workers=3)))
    assert [batch.ids for batch in batches] == [("0", "1", "2", "3"), ("4", "5", "6", "7"), ("8", "9")]
    assert [batch.array.shape for batch in batches] == [(4, 1, 4, 4), (4, 1, 4, 4), (2, 1, 4, 4)]
    assert batches[1].array[:, 0, 0, 0].tolist() == [4, 5, 6, 7]
    assert not decoders()


def test_batches_are_whole_and_apart_with_a_corrupt_image_among_them() -> None:
    items = shades(9)
    items.insert(5, Item("broken", Path("/nowhere/broken.png")))
    batches = list(Loader(items, GRAY, (4, 4), LoadOptions(batch=4, workers=3, allow_corrupt=1)))
    assert [batch.array[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert all(batch.array.flags.c_contiguous for batch in batches)
    assert not any(np.shares_memory(one.array, two.array) for one, two in pairwise(batches))


def test_only_a_few_batches_are_decoded_ahead() -> None:
    loaded: list[int] = []
    batches = iter(Loader(shades(200, loaded), GRAY, (4, 4), LoadOptions(batch=4, workers=2)))
    next(batches)
    batches.close()
    assert 4 <= len(loaded) <= 2 * 4 + (4 + 2 * 2) + 2
    assert not decoders()


def test_a_failure_in_a_later_batch_reaches_the_caller() -> None:
    items = [*shades(6), Item("wrong", np.zeros((4, 4), np.float32)), *shades(6)]
    batches = iter(Loader(items, GRAY, (4, 4), LoadOptions(batch=3, workers=2)))
    assert [next(batches).ids, next(batches).ids] == [("0", "1", "2"), ("3", "4", "5")]
    with pytest.raises(DataError, match="float32"):
        next(batches)
    assert not decoders()
