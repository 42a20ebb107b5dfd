"""Labelled images: what each task is evaluated on, streamed, with class names instead of numbers.

================  ======================================================================================
classification    a folder per class; a folder and a CSV or JSON of labels; an ``.npz``
detection         a folder and a COCO JSON
segmentation      a folder of images and a folder of masks with the same stems; an ``.npz``
any task          ``module:callable`` that gives ``(image, target)`` pairs
================  ======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data import coco, labels, masks, rows
from edgeship.data.frames import image_files, spread
from edgeship.data.loader import Item
from edgeship.data.names import read_classes, unknown_names
from edgeship.data.npz import open_npz
from edgeship.data.reference import is_reference
from edgeship.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


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
            f"the model's output has {head} classes, the labels name {len(self.classes)}: {_some(self.classes)}",
            expected="one class name for each output, in the order of the outputs",
            do="set evaluation.classes to the list the model was trained with (a text file with one name a line)",
        )


def open_dataset(settings: Evaluation, classes: Sequence[str] = ()) -> Dataset:
    """Open the evaluation images and labels that the settings name.

    ``limit`` takes images spread evenly over the whole set, not the first ones.

    Args:
        settings: Task, places, class names.
        classes: Class names that stand in for ``settings.classes``.

    Raises:
        DataError: Absent, empty, unreadable, mislabelled, or no format that fits the task.
    """
    names = tuple(classes) or read_classes(settings.classes)
    if settings.images is None:
        raise DataError("evaluation.images is missing", do="name a folder of labelled images")
    if is_reference(settings.images):
        dataset = _custom(settings, names)
    elif settings.images.suffix == ".npz":
        dataset = _arrays(settings, names)
    elif settings.task == "classification":
        dataset = _classification(settings, names)
    elif settings.task == "detection":
        dataset = _detection(settings, names)
    elif settings.task == "segmentation":
        dataset = _segmentation(settings, names)
    else:
        items = [Item(path.name, path) for path in image_files(settings.images)]
        dataset = Dataset(settings.task, tuple(items), names or ())
    if not dataset.items:
        raise DataError(f"{settings.images} gives no labelled images", do="name a set with at least one")
    if settings.limit is not None:
        chosen = spread(len(dataset.items), settings.limit)
        dataset = replace(dataset, items=rows.take(dataset.items, chosen))
    return dataset


def _classification(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    assert settings.images is not None
    if settings.labels is not None:
        listing = labels.read(settings.labels, names)
        pairs = labels.find_images(settings.images, listing, settings.labels)
        values = [value for _, value in pairs]
        known, numbered = labels.class_names(values, names)
        index = labels.to_indices([(str(path), value) for path, value in pairs], known, settings.labels)
        items = [
            Item(path.relative_to(settings.images).as_posix(), path, label)
            for (path, _), label in zip(pairs, index, strict=True)
        ]
        return Dataset("classification", tuple(items), known, numbered, labelled=_counts(index, known))
    return _folder_per_class(settings.images, names)


def _counts(labels_: Sequence[int], classes: Sequence[str]) -> tuple[int, ...]:
    return tuple(np.bincount(np.asarray(labels_, dtype=np.int64), minlength=len(classes)).tolist())


def _folder_per_class(folder: Path, names: tuple[str, ...] | None) -> Dataset:
    files = image_files(folder)
    loose = [path for path in files if path.parent == folder]
    if loose:
        raise DataError(
            f"{folder} holds {len(loose)} images outside any class folder, for instance {loose[0].name}",
            expected="one folder for each class, or evaluation.labels",
            do="move them into class folders, or name a CSV or JSON of labels in evaluation.labels",
        )
    owners = [path.relative_to(folder).parts[0] for path in files]
    known, numbered = labels.class_names([int(o) if o.isdecimal() else o for o in owners], names)
    if not numbered:
        stray = unknown_names(dict.fromkeys(owners), known)
        if stray:
            raise DataError(
                f"{folder}: class folders that are not classes: {stray}",
                expected=f"folders named as in evaluation.classes ({_some(known)})",
                do="rename the folders, or fix evaluation.classes",
            )
    index = {name: number for number, name in enumerate(known)}
    items = [
        Item(path.relative_to(folder).as_posix(), path, int(owner) if numbered else index[owner])
        for path, owner in zip(files, owners, strict=True)
    ]
    return Dataset(
        "classification", tuple(items), known, numbered, labelled=_counts([item.target for item in items], known)
    )


def _detection(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    assert settings.images is not None
    if settings.labels is None:
        raise DataError("detection needs boxes", expected="a COCO JSON in evaluation.labels")
    truth = coco.read(settings.labels, names)
    folder = settings.images
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist", do="name the folder that file_name refers to")
    missing = [image.file_name for image in truth.images if not (folder / image.file_name).is_file()]
    if missing:
        raise DataError(
            f"{settings.labels} names {len(missing)} images that are not in {folder}: {_some(missing)}",
            do="add the images, or name the folder that file_name refers to in evaluation.images",
        )
    items = [Item(image.file_name, folder / image.file_name, image.load) for image in truth.images]
    labelled = _counts([label for image in truth.images for label in image.objects.labels.tolist()], truth.classes)
    return Dataset("detection", tuple(items), truth.classes, notes=truth.notes, labelled=labelled)


def _segmentation(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    assert settings.images is not None
    if settings.labels is None:
        raise DataError("segmentation needs masks", expected="a folder of masks in evaluation.labels")
    pairs = masks.pair(image_files(settings.images), settings.images, settings.labels)
    items = [Item(name, image, masks.Reader(mask)) for name, image, mask in pairs]
    return Dataset("segmentation", tuple(items), names or (), numbered=names is None)


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
    return Dataset("classification", tuple(items), known, numbered, labelled=_counts(index, known))


def _custom(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """``module:callable`` gives ``(image, target)`` or ``(image, target, id)``: see :mod:`edgeship.data.rows`.

    Targets: a class index or name; a dict of boxes (``boxes`` xyxy, ``labels``, perhaps ``crowd`` and ``area``); a
    mask array or file; anything for a task of one's own. One walk over the rows checks them and reads the labels.
    """
    source = str(settings.images)
    if settings.task == "detection" and names is None:
        raise DataError("detection from module:callable needs class names", do="set evaluation.classes")
    labelled: list[tuple[str, Any]] = []
    count = 0
    for number, row in rows.read(source):
        name, _, target = _parts(source, number, row)
        if settings.task == "classification":
            labelled.append((name, target))
        elif settings.task == "detection":
            coco.from_dict(name, target, names or ())
        count += 1
    known, numbered = names or (), names is None and settings.task == "segmentation"
    if settings.task == "classification":
        known, numbered = labels.class_names([target for _, target in labelled], names)
        labels.to_indices(labelled, known, source)

    def item(number: int, row: Any) -> Item:
        name, image, target = _parts(source, number, row)
        if settings.task == "classification":
            target = labels.to_indices([(name, target)], known, source)[0]
        elif settings.task == "detection":
            target = coco.from_dict(name, target, known)
        elif settings.task == "segmentation":
            target = masks.reader(target, name)
        return Item(name, image, target)

    return Dataset(settings.task, rows.Rows(source, range(count), item), known, numbered)


def _parts(source: str, number: int, row: Any) -> tuple[str, Any, Any]:
    """Id, image and target of a row."""
    if not isinstance(row, tuple) or len(row) not in (2, 3):
        raise DataError(f"{source}: item {number} is {type(row).__name__}", expected="(image, target[, id])")
    return str(row[2]) if len(row) == 3 else rows.name_of(source, number, row[0]), row[0], row[1]


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
