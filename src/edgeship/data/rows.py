"""Rows of a ``module:callable``: read when they are wanted, never kept.

The callable is called without arguments, once for each walk over its rows, and returns one of two things:

* a sequence (``__len__`` and ``__getitem__``): rows are asked for by number, only those that are wanted;
* any other iterable, for instance a generator: rows are taken in order, and every call must give the same ones.

Rows are read in one thread. The image of a row is a path, a uint8 array, or a function without arguments that gives
such an array; paths and functions are decoded in the worker threads, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeship.data.loader import Item
from edgeship.data.reference import call, user_code
from edgeship.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Items of some rows, made anew on each walk: what they hold is freed when the walk has passed them."""

    reference: str
    numbers: Sequence[int]
    """Which rows, rising."""
    item: Callable[[int, Any], Item]
    """From a row's number and its content."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Item]:
        seen = 0
        for number, row in read(self.reference, self.numbers):
            seen += 1
            yield self.item(number, row)
        if seen < len(self):
            raise DataError(
                f"{self.reference} gave {seen} of {len(self)} rows that it had given before",
                expected="the same rows on every call",
                do="make the generator, or whatever holds the rows, inside the function",
            )


Items = tuple[Item, ...] | Rows
"""Images of a dataset."""


def read(reference: str, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
    """Number and content of the rows with these rising numbers; of all rows where None.

    Raises:
        DataError: The callable returns nothing that has rows.
    """
    found = call(reference)
    if hasattr(found, "__len__") and hasattr(found, "__getitem__") and not isinstance(found, Mapping):
        with user_code(reference):
            for number in range(len(found)) if numbers is None else numbers:
                if number < len(found):
                    yield number, found[number]
        return
    if not hasattr(found, "__iter__"):
        raise DataError(
            f"{reference} returned {type(found).__name__}",
            expected="a sequence (__len__ and __getitem__) or an iterable of rows",
        )
    wanted = None if numbers is None else set(numbers)
    last = None if numbers is None else max(numbers, default=-1)
    with user_code(reference):
        for number, row in enumerate(found):
            if wanted is None or number in wanted:
                yield number, row
            if number == last:
                return


def take(items: Items, places: Sequence[int]) -> Items:
    """The items at these rising places."""
    if isinstance(items, Rows):
        return replace(items, numbers=tuple(items.numbers[place] for place in places))
    return tuple(items[place] for place in places)


def without_targets(items: Items) -> Items:
    """The images alone: what they should show is not read."""
    if not isinstance(items, Rows):
        return tuple(replace(item, target=None) for item in items)
    whole = items.item
    return replace(items, item=lambda number, row: replace(whole(number, row), target=None))


def names_of(items: Items) -> tuple[str, ...]:
    """The ids, where they are known without a walk over the rows."""
    return () if isinstance(items, Rows) else tuple(item.id for item in items)


def name_of(reference: str, number: int, image: Any) -> str:
    """A row's id where it gives none: its path, or the reference and its number."""
    return str(image) if isinstance(image, Path) else f"{reference}[{number}]"
