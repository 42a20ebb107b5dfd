"""Composes the scenes of this example: python make_scenes.py

scenes/calib/     48 frames without labels
scenes/val/       160 pictures, with boxes in scenes/boxes.json (COCO) and a mask each in scenes/road/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 96
HERE = Path(__file__).parent
Scene = tuple[np.ndarray, np.ndarray, list[tuple[int, tuple[int, int, int, int]]]]
"""uint8 [96, 96, 3], uint8 [96, 96], and (class, (x1, y1, x2, y2)) of each object."""


def scenes(count: int, seed: int) -> Iterator[Scene]:
    """A road to the horizon between meadows; up to two cars on it, up to three people anywhere."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield scene(random)


def scene(random: np.random.Generator) -> Scene:
    """One scene, lit and noisy as a camera's."""
    horizon = int(random.integers(26, 42))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = random.uniform((120, 150, 190), (200, 215, 250))
    meadow = random.uniform((40, 80, 20), (130, 150, 80))
    far = np.clip((rows - horizon) / (SIDE - horizon), 0, 1)
    middle = random.uniform(36, 60) + (random.uniform(30, 66) - 48) * far
    road = (rows >= horizon) & (np.abs(columns - middle) < 3 + random.uniform(22, 44) * far)
    picture[rows >= horizon] = meadow
    picture[road] = random.uniform(70, 140)
    dashes = road & (np.abs(columns - middle) < 0.5 + 1.2 * far) & ((rows // 5) % 2 == 0)
    picture[dashes] = random.uniform(190, 240)
    drivable = road.astype(np.uint8)
    objects = []
    feet = sorted(int(value) for value in random.uniform(horizon + 8, SIDE - 2, int(random.integers(1, 5))))
    for foot in feet:  # the farther ones first
        scale = 0.25 + 0.75 * (foot - horizon) / (SIDE - horizon)
        kind = int(random.random() < 0.55)
        place = middle[foot, 0] + random.uniform(-1, 1) * (20 * scale if kind == 0 else 44)
        width, height = (30 * scale, 22 * scale) if kind == 0 else (8 * scale, 26 * scale)
        box = tuple(round(float(value)) for value in (place - width / 2, foot - height, place + width / 2, foot))
        x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], SIDE), box[3]
        if x2 - x1 < 4 or y2 - y1 < 5:
            continue
        (car if kind == 0 else person)(picture[y1:y2, x1:x2], random)
        drivable[y1:y2, x1:x2] = 0
        objects.append((kind, (x1, y1, x2, y2)))
    picture = picture * random.uniform(0.6, 1.15) + random.normal(0, 6, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), drivable, objects


def car(place: np.ndarray, random: np.random.Generator) -> None:
    """A body with a dark rear window, two lights and the shadow of its wheels."""
    height, width = place.shape[:2]
    place[:] = random.uniform(20, 235, 3)
    place[height // 8 : height // 2, width // 6 : width - width // 6] = random.uniform(15, 50)
    light = slice(height // 2, max(height // 2 + 1, height * 2 // 3))
    place[light, : max(width // 6, 1)] = place[light, -max(width // 6, 1) :] = (220, 30, 30)
    place[-max(height // 6, 1) :] = 25


def person(place: np.ndarray, random: np.random.Generator) -> None:
    """A head, a coat and legs."""
    height, width = place.shape[:2]
    head, belt = max(height // 5, 1), max(height * 3 // 5, 2)
    place[:head, width // 4 : width - width // 4] = random.uniform((110, 80, 60), (225, 185, 160))
    place[head:belt] = random.uniform(20, 235, 3)
    place[belt:, : max(width // 2 - width // 8, 1)] = place[belt:, width // 2 + width // 8 :] = random.uniform(10, 80)


def write(folder: Path, count: int, seed: int) -> list[list[tuple[int, tuple[int, int, int, int]]]]:
    """Write pictures to ``folder`` and masks to the folder ``road`` beside it; returns the objects of each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "road").mkdir(exist_ok=True)
    found = []
    for number, (picture, mask, objects) in enumerate(scenes(count, seed)):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
        if folder.name == "val":
            Image.fromarray(mask).save(folder.parent / "road" / f"{number:03}.png")
        found.append(objects)
    return found


def main() -> None:
    place = HERE / "scenes"
    write(place / "calib", 48, seed=1)
    annotations: list[dict[str, Any]] = []
    every = write(place / "val", 160, seed=2)
    for image, objects in enumerate(every):
        for kind, (x1, y1, x2, y2) in objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": kind + 1, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    images = [{"id": n, "file_name": f"{n:03}.png", "width": SIDE, "height": SIDE} for n in range(len(every))]
    told = {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]}  # fmt: skip
    (place / "boxes.json").write_text(json.dumps(told))
    print(f"{len(every)} scenes with {len(annotations)} objects in {place}")


if __name__ == "__main__":
    main()
