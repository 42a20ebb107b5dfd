"""Images with a line of text each."""

from __future__ import annotations

from dataclasses import replace

from edgeship.config import Evaluation
from edgeship.data.dataset import Dataset
from edgeship.data.loader import Item
from edgeship.data.own_labels import open_own
from edgeship.errors import DataError

TEXT_KEYS = ("text", "label", "words", "transcription")
"""Columns that hold the text where a row has several."""


def open_text(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """The images that a list of labels names, each with its text.

    Raises:
        DataError: No list, no class names, or an image without a text.
    """
    if settings.labels is None or names is None:
        what = "evaluation.labels" if settings.labels is None else "evaluation.classes"
        raise DataError(
            f"text needs {what}",
            expected="a CSV of image and text in evaluation.labels, the dictionary's symbols in evaluation.classes",
        )
    dataset = open_own(settings, names)
    items = tuple(replace(item, target=_text(settings, item)) for item in dataset.items)
    symbols = set("".join(item.target for item in items)) - set("".join(names)) - {" "}
    stray = f"the labels hold characters that no symbol of the dictionary is: {' '.join(sorted(symbols)[:10])}"
    return replace(dataset, items=items, notes=(*dataset.notes, *([stray] if symbols else [])))


def _text(settings: Evaluation, item: Item) -> str:
    value = item.target(None)
    if isinstance(value, dict):
        value = next((value[key] for key in TEXT_KEYS if key in value), None)
    if not isinstance(value, str) or not value:
        raise DataError(
            f"{settings.labels}: {item.id} has the text {repr(value)[:40]}",
            expected="a text of one character at least",
            do="label it, or take the image out",
        )
    return value
