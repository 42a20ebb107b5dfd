"""Pictures with masks: clothing of Fashion-MNIST, cut out and laid on photographed ground.

Fashion-MNIST's photographs stand on a background that was set to 0 when the data set was made, so each carries its own
silhouette: where the picture is not dark, specks left out and holes filled. The cut-outs are enlarged, mirrored, lit
differently and laid on grass, gravel or brick; the silhouettes make the mask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIZE = 96
GROUNDS = ("brick.png", "grass.png", "gravel.png")
KINDS = (1, 2, 1, 1, 1, 3, 1, 3, 4, 3)
"""Position in model.CLASSES of each of Fashion-MNIST's ten labels: tops and dresses, trousers, shoes, bags."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Clothing:
    """Fashion-MNIST images uint8 [N, 28, 28] and labels [N]."""

    images: Bytes
    labels: Bytes

    @cached_property
    def rows(self) -> list[NDArray[np.intp]]:
        """The images of each kind."""
        kinds = np.array(KINDS)[self.labels]
        return [np.flatnonzero(kinds == kind) for kind in range(5)]

    def draw(self, generator: np.random.Generator) -> tuple[Bytes, int]:
        """A picture and its kind; the four kinds come equally often."""
        kind = int(generator.integers(1, 5))
        return self.images[generator.choice(self.rows[kind])], kind


@cache
def texture(file: str) -> Bytes:
    """One of scikit-image's photographs of a ground, greyscale."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        sys.exit("scikit-image is not installed: pip install scikit-image==0.26.0")
    with Image.open(Path(found.origin).parent / "data" / file) as opened:
        return np.asarray(opened.convert("L"))


def ground(generator: np.random.Generator) -> NDArray[np.float32]:
    """A cut of a texture at a random scale, of random brightness and contrast."""
    whole = texture(GROUNDS[int(generator.integers(len(GROUNDS)))])
    side = int(generator.integers(SIZE, 3 * SIZE))
    top, left = (int(generator.integers(0, length - side + 1)) for length in whole.shape)
    cut = Image.fromarray(whole[top : top + side, left : left + side]).resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(cut, dtype=np.float32)
    return (pixels - pixels.mean()) * generator.uniform(0.4, 1.0) + generator.uniform(40, 200)


def silhouette(picture: Bytes) -> NDArray[np.bool_]:
    """Where the clothing is: brighter than 8, in pieces of at least 10 pixels, holes filled."""
    pieces, _ = ndimage.label(picture > 8)
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(areas[pieces] >= 10)
    return filled


def scene(clothing: Clothing, generator: np.random.Generator) -> tuple[Bytes, Bytes]:
    """One picture and its mask, both uint8 [96, 96]. Later pieces lie over earlier ones."""
    pixels, mask = ground(generator), np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(int(generator.integers(1, 5))):
        picture, kind = clothing.draw(generator)
        outline = silhouette(picture)
        side = int(generator.integers(28, 57))
        piece = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR), np.float32)
        inside = np.asarray(Image.fromarray(outline).resize((side, side), Image.Resampling.NEAREST))
        if generator.random() < 0.5:
            piece, inside = piece[:, ::-1], inside[:, ::-1]
        piece = piece * generator.uniform(0.5, 1.0) + generator.uniform(0, 40)
        top, left = (int(value) for value in generator.integers(0, SIZE - side + 1, size=2))
        window = np.s_[top : top + side, left : left + side]
        pixels[window] = np.where(inside, piece, pixels[window])
        mask[window] = np.where(inside, np.uint8(kind), mask[window])
    pixels += generator.normal(0, 4, size=pixels.shape).astype(np.float32)
    return pixels.clip(0, 255).astype(np.uint8), mask


def scenes(clothing: Clothing, count: int, seed: int) -> Iterator[tuple[Bytes, Bytes]]:
    """``count`` pictures with masks; the same seed gives the same ones."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield scene(clothing, generator)
