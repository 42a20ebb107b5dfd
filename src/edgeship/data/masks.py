"""Masks of classes: one file for each image, whose pixel values are class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from edgeship.data.npz import BROKEN_ARRAY
from edgeship.data.preprocess import MAX_PIXELS, Geometry
from edgeship.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FORMATS = ("PNG", "TIFF", "BMP")
"""Lossless only: a JPEG mask holds values that nobody wrote."""
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".npy")


CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 classes that Cityscapes evaluates, in the order of their train ids."""
IGNORED = 255
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each of them; every other id is ignored."""
IMAGE_END, MASK_ENDS = "_leftImg8bit", ("_gtFine_labelTrainIds", "_gtFine_labelIds")


@dataclass(frozen=True)
class Reader:
    """Reads one mask when its image is loaded."""

    path: Path

    def __call__(self, geometry: Geometry) -> Array:
        mask = _checked(read(self.path), str(self.path), geometry)
        return _train_ids(mask) if self.path.stem.endswith(MASK_ENDS[1]) else mask


def _train_ids(mask: Array) -> Array:
    """Cityscapes' label ids → train ids 0 to 18, 255 where none is evaluated."""
    table = np.full(256, IGNORED, dtype=np.uint8)
    table[list(_IDS)] = np.arange(len(_IDS))
    found: Array = table[mask.astype(np.uint8)]
    return found


@dataclass(frozen=True)
class Ready:
    """A mask that is already an array."""

    array: Array
    name: str

    def __call__(self, geometry: Geometry) -> Array:
        return _checked(np.asarray(self.array), self.name, geometry)


def reader(target: Any, name: str) -> Reader | Ready:
    """The reader for a mask given as a path or an array."""
    return Reader(target) if isinstance(target, Path) else Ready(np.asarray(target), name)


def read(path: Path, what: str = "mask", values: str = "class indices") -> Array:
    """A mask [height, width] of class indices, or another map (``what``) of other ``values``.

    Palette images give their indices, not their colours.

    Raises:
        DataError: Absent, damaged, in colour, or too large.
    """
    try:
        if path.suffix.lower() == ".npy":
            array: Array = np.load(path, allow_pickle=False)
            return array
        with Image.open(path, formats=FORMATS) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise DataError(f"the {what} {path} has more than {MAX_PIXELS:,} pixels")
            if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
                raise DataError(
                    f"the {what} {path} has pixel mode {image.mode}",
                    expected=f"one channel or a palette, whose values are {values}",
                    do=f"convert colours to {values}",
                )
            return np.asarray(ImageOps.exif_transpose(image))
    except (*BROKEN_ARRAY, Image.DecompressionBombError) as error:
        raise DataError(
            f"the {what} {path} cannot be read: {error}",
            expected=", ".join(FORMATS) + " or .npy",
            do="write it again, or fix evaluation.labels",
        ) from None


def _checked(mask: Array, name: str, geometry: Geometry) -> Array:
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[:, :, 0]
    if mask.shape != (geometry.height, geometry.width):
        raise DataError(
            f"the mask {name} is {_size(mask.shape)}, its image is {geometry.width}×{geometry.height}",
            expected="a mask of its image's size (after EXIF orientation)",
        )
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8)
    if not np.issubdtype(mask.dtype, np.integer):
        raise DataError(f"the mask {name} has dtype {mask.dtype}", expected="integers: class indices")
    return mask


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]}" if len(shape) == 2 else f"of shape {list(shape)}"


def pair(images: Sequence[Path], root: Path, folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, image and mask of each image; a mask has the image's relative path with another suffix.

    Raises:
        DataError: The folder is absent or some images have no mask.
    """
    if not folder.is_dir():
        raise DataError(f"the mask folder {folder} does not exist", do="name it in evaluation.labels")
    found, missing = [], []
    listed: dict[Path, dict[str, Path]] = {}
    for image in images:
        name = image.relative_to(root)
        place = folder / name.parent
        if place not in listed:
            listed[place] = _by_stem(place)
        mask = _mask_of(listed[place], name.stem)
        if mask is None:
            missing.append(name.as_posix())
        else:
            found.append((name.as_posix(), image, mask))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images have no mask in {folder}, for instance {', '.join(missing[:5])}",
            expected=f"a file of the same name ending in {', '.join(SUFFIXES)}",
            do="fix evaluation.labels, or add the masks",
        )
    return found


def _mask_of(masks: dict[str, Path], stem: str) -> Path | None:
    """The mask with an image's name; of Cityscapes, the one for its frame."""
    if stem in masks or not stem.endswith(IMAGE_END):
        return masks.get(stem)
    frame = stem.removesuffix(IMAGE_END)
    return next((masks[frame + end] for end in MASK_ENDS if frame + end in masks), None)


def is_cityscapes(found: Sequence[tuple[str, Path, Path]]) -> bool:
    """Whether the masks are those of Cityscapes."""
    return bool(found) and all(mask.stem.endswith(MASK_ENDS) for _, _, mask in found)


def _by_stem(place: Path) -> dict[str, Path]:
    """The masks in a folder by name without suffix; of several with one stem, the first of :data:`SUFFIXES`."""
    if not place.is_dir():
        return {}
    masks = [path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    masks.sort(key=lambda path: (-SUFFIXES.index(path.suffix.lower()), path.name))
    return {path.stem: path for path in masks}
