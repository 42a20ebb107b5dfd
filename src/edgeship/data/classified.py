"""Images with one class each: a folder per class, or a list of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgeship.config import Evaluation
from edgeship.data import labels
from edgeship.data.dataset import Counts, Dataset, class_counts, require_present, some
from edgeship.data.formats.common import Listing
from edgeship.data.frames import image_files
from edgeship.data.loader import Item
from edgeship.data.names import unknown_names
from edgeship.data.objects import relative
from edgeship.errors import DataError

WNID = re.compile(r"n\d{8}")
"""A WordNet id: what ImageNet's folders and labels are called."""


def open_classified(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """Images and their classes, from a list in ``labels`` or from their folders.

    Raises:
        DataError: Absent, malformed, images or classes that do not fit.
    """
    assert settings.images is not None
    if settings.labels is None:
        return _folder_per_class(settings.images, names)
    return _listed(settings, settings.images, settings.labels, names)


def _listed(settings: Evaluation, folder: Path, where: Path, names: tuple[str, ...] | None) -> Dataset:
    listing = labels.read(where, names)
    if not folder.is_dir():
        raise DataError(f"the image folder {folder} does not exist", do="name the folder in evaluation.images")
    files = image_files(folder)
    there = Listing(folder, tuple(path.relative_to(folder).as_posix() for path in files))
    known_files = set(there.names)
    found = [(there.image(relative(where, name)), value) for name, value in listing]
    missing = [name for name, _ in found if name not in known_files]
    require_present(missing, where, folder, settings.allow_missing)
    pairs = [(name, value) for name, value in found if name in known_files]
    known, numbered = labels.class_names([value for _, value in found], names)
    alias = _wnids([value for _, value in found if isinstance(value, str)], known)
    pairs = [(name, alias.get(value, value) if isinstance(value, str) else value) for name, value in pairs]
    index = labels.to_indices(pairs, known, where)
    items = [Item(name, folder / name, label) for (name, _), label in zip(pairs, index, strict=True)]
    if len({item.id for item in items}) < len(items):
        raise DataError(f"{where} labels an image twice", do="keep one row for each image")
    counts = Counts(
        f"a list of labels, {where.name}", len(items), unlabelled=len(files) - len(items), missing=len(missing)
    )
    return Dataset("classification", tuple(items), known, numbered, labelled=class_counts(index, known), counts=counts)


def _wnids(found: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """WordNet ids among the labels → the class name that they stand for.

    By class names that begin with them (``n01440764 tench``); else, where there are as many ids as class names, in
    their order, which is that of ImageNet's outputs.
    """
    ids = sorted({name for name in found if WNID.fullmatch(name)} - set(known))
    if not ids:
        return {}
    by_start = {name.split()[0].rstrip(":,"): name for name in known if name.split()}
    if all(wnid in by_start for wnid in ids):
        return {wnid: by_start[wnid] for wnid in ids}
    return dict(zip(ids, known, strict=True)) if len(ids) == len(known) else {}


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
    alias = {} if numbered else _wnids(owners, known)
    owners = [alias.get(owner, owner) for owner in owners]
    if not numbered:
        stray = unknown_names(dict.fromkeys(owners), known)
        if stray:
            raise DataError(
                f"{folder}: class folders that are not classes: {stray}",
                expected=f"folders named as in evaluation.classes ({some(known)})",
                do="rename the folders, or fix evaluation.classes",
            )
    index = {name: number for number, name in enumerate(known)}
    items = [
        Item(path.relative_to(folder).as_posix(), path, int(owner) if numbered else index[owner])
        for path, owner in zip(files, owners, strict=True)
    ]
    labelled = class_counts([item.target for item in items], known)
    counts = Counts("a folder for each class", len(items))
    notes = (f"ImageNet's ids stand for evaluation.classes: {some([f'{a} is {b}' for a, b in alias.items()])}",)
    return Dataset("classification", tuple(items), known, numbered, notes if alias else (), labelled, counts)
