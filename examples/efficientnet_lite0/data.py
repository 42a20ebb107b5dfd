"""Photographs, read at run time from the packages that requirements.txt installs.

edgeship.toml names the two functions: ``evaluation.images = "data:photographs"``, ``calibration.images =
"data:frames"``. The evaluation photographs are not among the calibration frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES_EACH = 32
SOURCES = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""Photographs of scikit-image."""


def package_data(package: str) -> Path:
    """The ``data`` folder of an installed package, without importing the package."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: pip install --no-deps -r requirements.txt")
    return Path(found.origin).parent / "data"


def photographs() -> Iterator[tuple[Path, int, str]]:
    """Twenty ImageNet photographs with their labels: ``imagenet_19_305.jpg`` shows class 305.

    The numbers are positions among the 1,000 classes of ILSVRC 2012 in the order of their WordNet ids, which is the
    order of the network's outputs; classes.txt names the ones that occur.
    """
    for path in sorted(package_data("foolbox").glob("imagenet_*.jpg")):
        yield path, int(path.stem.rpartition("_")[2]), path.stem


def frames() -> Iterator[tuple[NDArray[np.uint8], Any, str]]:
    """256 frames for calibration: seeded crops of eight photographs, some mirrored, 160 pixels or more on a side."""
    generator = np.random.default_rng(0)
    for name in SOURCES:
        with Image.open(package_data("skimage") / name) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        height, width = pixels.shape[:2]
        for number in range(FRAMES_EACH):
            side = int(generator.integers(160, min(height, width) + 1))
            top = int(generator.integers(0, height - side + 1))
            left = int(generator.integers(0, width - side + 1))
            crop = pixels[top : top + side, left : left + side]
            if generator.random() < 0.5:
                crop = crop[:, ::-1]
            yield np.ascontiguousarray(crop), None, f"{name}#{number}"
