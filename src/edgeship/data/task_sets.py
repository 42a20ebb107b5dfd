"""The labelled images of several tasks at once: the same images, with what each task wants of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeship.config import Evaluation
from edgeship.data.dataset import Dataset
from edgeship.data.frames import spread
from edgeship.data.preprocess import Geometry
from edgeship.data.reference import is_reference
from edgeship.errors import DataError

Opened = Callable[[Evaluation, Sequence[str]], Dataset]


@dataclass(frozen=True)
class Targets:
    """What each of several tasks wants of one image."""

    by_task: Mapping[str, Any]

    def __call__(self, geometry: Geometry) -> dict[str, Any]:
        """By task: the target, read where it is a file."""
        return {name: item(geometry) if callable(item) else item for name, item in self.by_task.items()}


def open_several(settings: Evaluation, classes: Sequence[str], opened: Opened) -> Dataset:
    """The images of several tasks, each labelled for all of them; ``opened`` opens those of one task.

    Raises:
        DataError: An image has labels for some of the tasks, the images come from ``module:callable``, or the labels of
            a task cannot be used: it is named.
    """
    if settings.images is not None and is_reference(settings.images):
        raise DataError("several tasks need a folder of images or an .npz", do="write the images into a folder")
    parts: dict[str, Dataset] = {}
    for name, item in settings.tasks.items():
        own = [each.removeprefix(f"{name}.") for each in classes if each.startswith(f"{name}.")]
        try:
            parts[name] = opened(item.model_copy(update={"limit": None}), own)
        except DataError as error:
            raise error.of(f"[evaluation.{name}]") from None
    ids = {name: {item.id: item for item in dataset.items} for name, dataset in parts.items()}
    first = next(iter(ids))
    for name in ids:
        for one, other in ((first, name), (name, first)):
            lacking = [item for item in ids[one] if item not in ids[other]]
            if lacking:
                raise DataError(
                    f"evaluation.{other} has no labels for {len(lacking)} of the {len(ids[one])} images that "
                    f"evaluation.{one} labels, for instance {lacking[0]}",
                    expected="labels of every task for each image",
                    do=f"add them to {settings.tasks[other].labels}, or remove those of {one}",
                )
    merged = [
        replace(item, target=Targets({name: items[item.id].target for name, items in ids.items()}))
        for item in ids[first].values()
    ]
    if settings.limit is not None:
        merged = [merged[place] for place in spread(len(merged), settings.limit)]
    names = tuple(f"{name}.{each}" for name, dataset in parts.items() for each in dataset.classes)
    labelled = tuple(count for dataset in parts.values() for count in dataset.labelled)
    return Dataset(
        settings.task,
        tuple(merged),
        names,
        numbered=any(dataset.numbered for dataset in parts.values()),
        notes=tuple(f"{name}: {note}" for name, dataset in parts.items() for note in dataset.notes),
        labelled=labelled if len(labelled) == len(names) else (),
        parts=parts,
    )
