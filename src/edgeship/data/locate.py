"""Where labels and class names lie when the config leaves them to be found, written out so that every part of a run,
here and on a device, reads the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.config import Evaluation
from edgeship.data.formats import yolo
from edgeship.data.labels import LABEL_KEYS, table_rows
from edgeship.data.names import read_classes
from edgeship.data.reference import is_reference
from edgeship.errors import DataError

OBJECT_TASKS = ("detection", "instances", "keypoints", "rotated")
"""Tasks whose labels are objects in images."""
METADATA = ("metadata.jsonl", "metadata.csv")
"""Hugging Face's ``imagefolder``."""
YAML = (".yaml", ".yml")
NAMED = ("data.yaml", "data.yml", "dataset.yaml")


def located(settings: Evaluation) -> Evaluation:
    """The settings with the places and names that they leave to be found.

    ``labels`` may be a YOLO ``data.yaml``: its ``val`` is the folder of images where ``images`` is not set (with the
    signs of Windows too, and with ``..`` before what lies beside the file, as Roboflow writes it and Ultralytics finds
    it), labels lie where Ultralytics looks for them, and its names are those of the numbers in the labels. Without
    ``labels``, a ``metadata.jsonl`` or ``metadata.csv`` among the images is taken, or the YOLO folder beside them.

    Raises:
        DataError: A ``data.yaml`` without usable names, or no folder of labels where it says.
        MissingExtra: A ``data.yaml`` and no PyYAML.
    """
    if settings.tasks:
        tasks = {name: located(item) for name, item in settings.tasks.items()}
        return settings.model_copy(update={"tasks": tasks})
    if settings.images is not None and (is_reference(settings.images) or settings.images.suffix == ".npz"):
        return settings
    if settings.labels is not None and is_reference(settings.labels):
        return settings
    objects = settings.task in OBJECT_TASKS
    if objects and settings.labels is not None and settings.labels.suffix.lower() in YAML:
        return _from_yaml(settings, settings.labels)
    if settings.images is None:
        return settings
    if settings.labels is None:
        settings = settings.model_copy(update={"labels": _beside(settings.images, objects=objects, task=settings.task)})
    if objects and settings.labels is not None and settings.labels.is_dir() and settings.label_classes is None:
        return _named(settings, settings.labels)
    return settings


def _from_yaml(settings: Evaluation, path: Path) -> Evaluation:
    found = yolo.read_names(path)
    images = settings.images
    if images is None:
        value = found["val"]
        if not isinstance(value, str):
            raise DataError(f"{path} names no folder of images under val", do="set evaluation.images")
        root, value = (str(part).replace("\\", "/") for part in (found["root"] or ".", value))
        base = path.parent / root
        tried = (base / value, path.parent / value, path.parent / value.removeprefix("../"))
        places = [place for place in (*tried, path.parent / Path(value).name) if place.is_dir()]
        if not places:
            raise DataError(
                f"{path} says val: {value}, and there is no folder {base / value}", do="set evaluation.images"
            )
        images = places[0]
    labels = _swapped(images)
    if labels is None:
        raise DataError(
            f"{path} has no labels for {images}",
            expected=f"text files in {_swap(images) or images}",
            do="name the folder of text files in evaluation.labels",
        )
    return _with(settings.model_copy(update={"images": images, "labels": labels}), found)


def _with(settings: Evaluation, found: dict[str, Any]) -> Evaluation:
    changes: dict[str, Any] = {"label_classes": settings.label_classes or found["names"]}
    if settings.classes is None:
        changes["classes"] = found["names"]
    if settings.kpt_shape is None:
        changes["kpt_shape"] = found["joints"]
    return settings.model_copy(update=changes)


def _swap(images: Path) -> Path | None:
    """``…/images/val`` → ``…/labels/val``, as Ultralytics has it."""
    parts = list(images.parts)
    places = [number for number, part in enumerate(parts) if part == "images"]
    if not places:
        return None
    parts[places[-1]] = "labels"
    return Path(*parts)


def _swapped(images: Path) -> Path | None:
    """The folder of YOLO labels: in the place of ``images``, else among the images."""
    beside = _swap(images)
    if beside is not None and beside.is_dir():
        return beside
    text = any(path.suffix == ".txt" and path.name not in yolo.NO_LABELS for path in images.iterdir())
    return images if text else None


def _beside(images: Path, *, objects: bool, task: str) -> Path | None:
    if not images.is_dir():
        return None
    for name in METADATA if objects or task == "classification" else ():
        path = images / name
        if path.is_file() and (objects or path.suffix == ".jsonl" or set(LABEL_KEYS) & set(table_rows(path)[0])):
            return path
    return _swapped(images) if objects else None


def _named(settings: Evaluation, labels: Path) -> Evaluation:
    """With the names of a ``data.yaml`` or ``classes.txt`` that lies with YOLO labels."""
    if next(labels.rglob("*.txt"), None) is None:
        return settings
    for name in ("classes.txt", "obj.names"):
        if (labels / name).is_file():
            names = read_classes(labels / name)
            return _with(settings, {"names": names, "joints": None})
    for folder in (labels, *labels.parents[:3]):
        for name in NAMED:
            if (folder / name).is_file():
                return _with(settings, yolo.read_names(folder / name))
    return settings
