"""Images with labelled objects: boxes, masks, keypoints, rotated boxes."""

from __future__ import annotations

from dataclasses import replace

from edgeship.config import Evaluation
from edgeship.data.coco import Need
from edgeship.data.dataset import Counts, Dataset, class_counts, require_present
from edgeship.data.formats.common import Listing
from edgeship.data.formats.recognise import FORMATS, read_objects
from edgeship.data.frames import image_files
from edgeship.data.loader import Item
from edgeship.data.names import read_classes
from edgeship.errors import DataError

NEEDS: dict[str, Need] = {
    "detection": "boxes",
    "instances": "masks",
    "keypoints": "keypoints",
    "rotated": "corners",
}
"""What the labels of a task must have of each object."""


def open_objects(settings: Evaluation, names: tuple[str, ...] | None) -> Dataset:
    """The images that labels name, with their objects, in the order of their names.

    Raises:
        DataError: Absent or malformed labels, more absent images than allowed, or objects of unknown classes.
    """
    assert settings.images is not None
    if settings.labels is None:
        raise DataError(f"{settings.task} needs labelled objects", expected=f"{FORMATS} in evaluation.labels")
    files = image_files(settings.images)
    there = {path.relative_to(settings.images).as_posix(): path for path in files}
    listing = Listing(
        settings.images,
        tuple(there),
        names,
        NEEDS[settings.task],
        read_classes(settings.label_classes),
        settings.kpt_shape,
    )
    truth = read_objects(settings.labels, listing)
    images = [replace(image, name=listing.slashed(image.name)) for image in truth.images]
    missing = [image.name for image in images if image.name not in there]
    require_present(missing, settings.labels, settings.images, settings.allow_missing)
    kept = sorted((image for image in images if image.name in there), key=lambda image: image.name)
    items = tuple(Item(image.name, there[image.name], image.read) for image in kept)
    counts = Counts(
        truth.kind,
        len(kept) - truth.background,
        sum(not len(image.labels) for image in kept) - truth.background,
        truth.background,
        len(there) - len(kept),
        len(missing),
    )
    labelled = class_counts([label for image in kept for label in image.labels.tolist()], truth.classes)
    return Dataset(settings.task, items, truth.classes, truth.numbered, truth.notes, labelled, counts)
