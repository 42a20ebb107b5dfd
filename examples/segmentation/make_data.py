"""Writes calib/, val/ and masks/ as they are committed beside this script.

    sudo apt-get install dataset-fashion-mnist
    pip install scikit-image==0.26.0
    python make_data.py

The evaluation pictures are composed of Fashion-MNIST's test split, the calibration frames of that part of its train
split which train.py leaves out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compose import Clothing, scenes
from idx import FOLDER, split
from PIL import Image

HERE = Path(__file__).parent
FRAMES, LABELLED = 96, 200
HELD_OUT = 5_000
"""Images at the end of the train split that training never sees."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder of the four idx.gz files")
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()

    for name in ("calib", "val", "masks"):
        (args.output / name).mkdir(parents=True, exist_ok=True)
    images, labels = split("train", args.data)
    for number, (pixels, _) in enumerate(scenes(Clothing(images[-HELD_OUT:], labels[-HELD_OUT:]), FRAMES, seed=1)):
        Image.fromarray(pixels).save(args.output / "calib" / f"{number:03d}.png", optimize=True)
    for number, (pixels, mask) in enumerate(scenes(Clothing(*split("t10k", args.data)), LABELLED, seed=2)):
        Image.fromarray(pixels).save(args.output / "val" / f"{number:03d}.png", optimize=True)
        Image.fromarray(mask).save(args.output / "masks" / f"{number:03d}.png", optimize=True)


if __name__ == "__main__":
    main()
