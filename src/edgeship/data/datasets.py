"""Labelled images: what each task is evaluated on, streamed, with class names instead of numbers.

================  ======================================================================================
classification    a folder per class; a folder and a CSV or JSON of labels; an ``.npz``
detection         a folder and a COCO JSON
segmentation      a folder of images and a folder of masks with the same stems; an ``.npz``
any task          ``module:callable`` that gives ``(image, target)`` pairs
================  ======================================================================================
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data import labels, masks, rows
from edgeship.data.classified import open_classified
from edgeship.data.dataset import Counts, Dataset, class_counts
from edgeship.data.depth_maps import open_depth
from edgeship.data.frames import image_files, spread
from edgeship.data.lines import open_text
from edgeship.data.loader import Item
from edgeship.data.locate import OBJECT_TASKS, located
from edgeship.data.names import read_classes
from edgeship.data.npz import open_npz
from edgeship.data.object_sets import open_objects
from edgeship.data.objects import from_dict
from edgeship.data.own_labels import open_own
from edgeship.data.reference import is_reference
from edgeship.data.task_sets import open_several
from edgeship.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


def open_dataset(settings: Evaluation, classes: Sequence[str] = ()) -> Dataset:
    """Open the evaluation images and labels that the settings name.

    ``limit`` takes images spread evenly over the whole set, not the first ones.

    Args:
        settings: Task, places, class names.
        classes: Class names that stand in for ``settings.classes``.

    Raises:
        DataError: Absent, empty, unreadable, mislabelled, or no format that fits the task.
    """
    settings = located(settings)
    if settings.tasks:
        return open_several(settings, classes, open_dataset)
    names = tuple(classes) or read_classes(settings.classes, symbols=settings.task == "text")
    if settings.images is None:
        raise DataError("evaluation.images is missing", do="name a folder of labelled images")
    if is_reference(settings.images):
        dataset = _custom(settings, names)
    elif settings.images.suffix == ".npz":
        dataset = _arrays(settings, names)
    elif settings.task == "classification":
        dataset = open_classified(settings, names)
    elif settings.task in OBJECT_TASKS:
        dataset = open_objects(settings, names)
    elif settings.task == "embeddings":
        dataset = replace(open_classified(settings, names), task="embeddings")
    elif settings.task == "text":
        dataset = open_text(settings, names)
    elif settings.task == "depth":
        dataset = open_depth(settings)
    elif settings.task == "segmentation":
        dataset = _segmentation(settings, names)
    else:
        dataset = open_own(settings, names)
    if not dataset.items:
        raise DataError(f"{settings.images} gives no labelled images", do="name a set with at least one")
    if settings.limit is not None:
        chosen = spread(len(dataset.items), settings.limit)
        dataset = replace(dataset, items=rows.take(dataset.items, chosen))
    return dataset


def _segmentation(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    assert settings.images is not None
    if settings.labels is None:
        raise DataError("segmentation needs masks", expected="a folder of masks in evaluation.labels")
    pairs = masks.pair(image_files(settings.images), settings.images, settings.labels)
    items = tuple(Item(name, image, masks.Reader(mask)) for name, image, mask in pairs)
    city = masks.is_cityscapes(pairs)
    counts = Counts("Cityscapes ids" if city else "masks", len(items))
    if city and names is None:
        names = masks.CITYSCAPES
    return Dataset("segmentation", items, names or (), numbered=names is None, counts=counts)


def _arrays(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """``images`` with ``labels`` (classification) or ``masks`` (segmentation), and perhaps ``classes``."""
    assert settings.images is not None
    path = settings.images
    arrays = open_npz(path)
    wanted = {"classification": "labels", "segmentation": "masks"}.get(settings.task)
    if wanted is None or "images" not in arrays or wanted not in arrays:
        raise DataError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}",
            expected=f"'images' and {wanted!r}" if wanted else f"a folder of images for {settings.task}",
        )
    images, targets = arrays["images"], arrays[wanted]
    if len(images) != len(targets):
        raise DataError(f"{path} holds {len(images)} images and {len(targets)} {wanted}", expected="as many")
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"{wanted} of {path} have dtype {targets.dtype}", expected="integers")
    if names is None and "classes" in arrays:
        names = tuple(str(name) for name in arrays["classes"])
    stem = path.name
    if settings.task == "segmentation":
        items = [
            Item(f"{stem}[{row}]", images[row], masks.Ready(targets[row], f"{stem}[{row}]"))
            for row in range(len(images))
        ]
        return Dataset("segmentation", tuple(items), names or (), numbered=names is None)
    values = [int(value) for value in targets]
    known, numbered = labels.class_names(values, names)
    index = labels.to_indices([(f"{stem}[{row}]", value) for row, value in enumerate(values)], known, path)
    items = [Item(f"{stem}[{row}]", images[row], label) for row, label in enumerate(index)]
    return Dataset("classification", tuple(items), known, numbered, labelled=class_counts(index, known))


def _custom(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """``module:callable`` gives ``(image, target)`` or ``(image, target, id)``: see :mod:`edgeship.data.rows`.

    Targets: a class index or name; a dict of boxes (``boxes`` xyxy, ``labels``, perhaps ``crowd`` and ``area``); a
    mask array or file; anything for a task of one's own. One walk over the rows checks them and reads the labels.
    """
    source = str(settings.images)
    if settings.task in OBJECT_TASKS and names is None:
        raise DataError(f"{settings.task} from module:callable needs class names", do="set evaluation.classes")
    labelled: list[tuple[str, Any]] = []
    count = 0
    for number, row in rows.read(source):
        name, _, target = _parts(source, number, row)
        if settings.task in ("classification", "embeddings"):
            labelled.append((name, target))
        elif settings.task in OBJECT_TASKS:
            from_dict(name, target, names or ())
        elif settings.task == "text" and (not isinstance(target, str) or not target):
            raise DataError(f"{name} has the text {target!r}", expected="a text of one character at least")
        count += 1
    known, numbered = names or (), names is None and settings.task == "segmentation"
    if settings.task in ("classification", "embeddings"):
        known, numbered = labels.class_names([target for _, target in labelled], names)
        labels.to_indices(labelled, known, source)

    def item(number: int, row: Any) -> Item:
        name, image, target = _parts(source, number, row)
        if settings.task in ("classification", "embeddings"):
            target = labels.to_indices([(name, target)], known, source)[0]
        elif settings.task in OBJECT_TASKS:
            target = from_dict(name, target, known)
        elif settings.task == "segmentation":
            target = masks.reader(target, name)
        return Item(name, image, target)

    return Dataset(settings.task, rows.Rows(source, range(count), item), known, numbered)


def _parts(source: str, number: int, row: Any) -> tuple[str, Any, Any]:
    """Id, image and target of a row."""
    if not isinstance(row, tuple) or len(row) not in (2, 3):
        raise DataError(f"{source}: item {number} is {type(row).__name__}", expected="(image, target[, id])")
    return str(row[2]) if len(row) == 3 else rows.name_of(source, number, row[0]), row[0], row[1]
