"""Labelled images of one task, and what is said of them in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeship.data import rows
from edgeship.errors import DataError

FEW = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Counts:
    """How many images have labels, by the format they are in."""

    kind: str
    labelled: int
    empty: int = 0
    """Labelled images that show no object."""
    background: int = 0
    """Images without a label file, which shows no object in this format."""
    unlabelled: int = 0
    """Images in the folder that the labels do not name: left out."""
    missing: int = 0
    """Images that the labels name and that are not there: left out, as ``allow_missing`` allows."""

    def __str__(self) -> str:
        parts = [f"{self.kind}: {self.labelled} labelled images"]
        for count, what in (
            (self.empty, "without objects"),
            (self.background, "without a label file, which counts as no objects"),
        ):
            parts[0] += f", {count} {what}" if count else ""
        if self.unlabelled:
            parts.append(f"{self.unlabelled} unlabelled images are left out")
        if self.missing:
            parts.append(f"{self.missing} labelled images are not there")
        return "; ".join(parts)


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one task."""

    task: str
    items: rows.Items
    classes: tuple[str, ...]
    """Names in the order of the model's outputs."""
    numbered: bool = False
    """The names are only numbers read from the labels: a model with more classes extends them."""
    notes: tuple[str, ...] = ()
    labelled: tuple[int, ...] = ()
    """Labelled examples of each class, where they are known without opening an image."""
    counts: Counts | None = None
    parts: Mapping[str, Dataset] = field(default_factory=dict)
    """Of several tasks, each one's own labels; ``classes`` then carry the task's name: ``boxes.person``."""

    @property
    def said(self) -> str:
        """What the labels are, how many images have them, and which classes have none; empty where nobody counted."""
        if self.parts:
            return "; ".join(f"{name}: {part.said}" for name, part in self.parts.items() if part.said)
        if self.counts is None:
            return ""
        none = [name for name, count in zip(self.classes, self.labelled, strict=False) if count == 0]
        return str(self.counts) + (f"; classes without an example: {some(none)}" if none and not self.numbered else "")

    def fitted(self, head: int | None) -> Dataset:
        """This dataset for a model whose head has ``head`` classes (None: the outputs do not tell).

        Raises:
            DataError: The number of class names is not the head's.
        """
        if head is None or head == len(self.classes):
            return self
        if self.numbered and head > len(self.classes):
            return replace(self, classes=tuple(str(number) for number in range(head)))
        raise DataError(
            f"the model's output has {head} classes, the labels name {len(self.classes)}: {some(self.classes)}",
            expected="one class name for each output, in the order of the outputs",
            do="set evaluation.classes to the list the model was trained with (a text file with one name a line)",
        )


def class_counts(labels: Sequence[int], classes: Sequence[str]) -> tuple[int, ...]:
    """Examples of each class."""
    return tuple(np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(classes)).tolist())


def some(values: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    return ", ".join(values[:FEW]) + (f" and {len(values) - FEW} more" if len(values) > FEW else "")


def require_present(missing: Sequence[str], where: object, folder: object, allowed: int) -> None:
    """Refuse more absent images than ``allow_missing``.

    Raises:
        DataError: With the first of them.
    """
    if len(missing) > allowed:
        raise DataError(
            f"{where} labels {len(missing)} images that are not in {folder}: {some(missing)}",
            expected=f"at most {allowed} (evaluation.allow_missing)",
            do="add the images, fix evaluation.images, drop their labels, or raise evaluation.allow_missing",
        )
