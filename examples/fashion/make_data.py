"""Writes calib/ and val/ from Fashion-MNIST, as they are committed beside this script.

calib/ has the last 512 images of the train split, which train.py never learns from, without labels: calibration needs
none. val/ has the first 250 test images of each class, in one folder per class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from idx import FOLDER, split
from model import CLASSES
from PIL import Image

HERE = Path(__file__).parent
FRAMES = 512
PER_CLASS = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder of the four idx.gz files")
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()

    images, _ = split("train", args.data)
    folder = args.output / "calib"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(images) - FRAMES, len(images)):
        Image.fromarray(images[index]).save(folder / f"{index:05d}.png", optimize=True)

    images, labels = split("t10k", args.data)
    for label, name in enumerate(CLASSES):
        folder = args.output / "val" / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(labels == label)[:PER_CLASS]:
            Image.fromarray(images[index]).save(folder / f"{index:05d}.png", optimize=True)


if __name__ == "__main__":
    main()
