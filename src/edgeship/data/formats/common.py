"""What the readers share: the images that lie there, text lines, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from edgeship.data.coco import Need
from edgeship.data.objects import LARGEST
from edgeship.errors import DataError
from edgeship.files import read_text, walk


@dataclass(frozen=True)
class Listing:
    """The image files below a folder, by their names relative to it, and what is asked of their labels.

    Args:
        folder: The folder of images.
        names: Relative names with ``/``, sorted.
        classes: The model's class names; None: the labels tell them.
        need: What the task compares of an object.
        numbers: The names that the numbers of the labels stand for; None: positions among the classes.
        joints: Keypoints of an object and values of each (``kpt_shape``); None: not told.
    """

    folder: Path
    names: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    need: Need = "boxes"
    numbers: tuple[str, ...] | None = None
    joints: tuple[int, int] | None = None

    @cached_property
    def by_stem(self) -> dict[str, str]:
        """Relative name without its suffix → relative name."""
        return {stem(name): name for name in self.names}

    @cached_property
    def known(self) -> frozenset[str]:
        """The names, to look one up."""
        return frozenset(self.names)

    @cached_property
    def lowered(self) -> dict[str, str]:
        """The last part of a name → the relative name, where only one image has it."""
        found: dict[str, str] = {}
        twice = set()
        for name in self.names:
            last = PurePosixPath(name).name
            twice |= {last} & set(found)
            found[last] = name
        return {last: name for last, name in found.items() if last not in twice}

    def image(self, name: str) -> str:
        """The image that a label names: as it stands, without its suffix, or by its last part; else the name itself."""
        name = self.slashed(name)
        if name in self.known:
            return name
        return self.by_stem.get(name) or self.lowered.get(PurePosixPath(name).name) or name

    def slashed(self, name: str) -> str:
        """A name that Windows wrote, with ``/``, unless an image has it as it stands."""
        return name if name in self.known else name.replace("\\", "/")


def stem(name: str) -> str:
    """A relative name without its suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()


def label_files(folder: Path, suffix: str, leave_out: Sequence[str] = ()) -> dict[str, Path]:
    """Relative stem → file, for the label files of one suffix below a folder."""
    files = [path for path in walk(folder) if path.suffix.lower() == suffix and path.name not in leave_out]
    return {stem(path.relative_to(folder).as_posix()): path for path in sorted(files)}


def text_of(path: Path) -> str:
    """A label file's text without byte order marks, wherever they stand.

    Raises:
        DataError: It cannot be read, or is not text.
    """
    try:
        return read_text(path).replace("\ufeff", "")
    except (OSError, ValueError) as error:
        raise DataError(f"the labels {path} cannot be read: {error}", do="write the file again") from None


def lines_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where (file and line) and the words of each line that is not empty."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        words = line.split()
        if words:
            yield f"{path}, line {number}", words


def finite(where: str, words: Sequence[str]) -> list[float]:
    """Words as numbers.

    Raises:
        DataError: One of them is not a finite number.
    """
    found = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not abs(value) < LARGEST:
            raise DataError(f"{where}: {word!r} is not a finite number", do="correct the line")
        found.append(value)
    return found


def forwards(where: str, box: Sequence[float]) -> None:
    """Refuse a box (x1, y1, x2, y2) that ends before it begins: it is of another convention, or its sides were taken
    for one another.

    Raises:
        DataError: It is such a box; the message names it.
    """
    if box[2] < box[0] or box[3] < box[1]:
        raise DataError(
            f"{where}: the box {' '.join(f'{value:g}' for value in box)} ends before it begins",
            expected="x1 y1 x2 y2, the smaller ones first",
            do="convert boxes of x, y, width and height, or correct the line",
        )


def known_classes(found: Sequence[str], given: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The class names of labels that name their classes in words, and what is to be said about them."""
    if given is not None:
        return given, ()
    names = tuple(sorted(set(found)))
    return names, (
        f"the classes are the {len(names)} names in the labels, sorted; evaluation.classes tells their order",
    )
