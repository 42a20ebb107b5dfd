"""Composes labelled scenes out of real photographs: objects at known places and sizes, small ones among them.

    python make_scenes.py                    # 200 scenes to scenes/val, 32 to scenes/calib
    python make_scenes.py --seed 1           # other scenes

Each scene is 416×400: a ground of a photographed texture, and one to four photographs of an object pasted into it,
mirrored, shrunk, brightened or darkened. The boxes were drawn by hand on the photographs and move with them, so the
COCO JSON beside the images is exact to a pixel or two of the photograph.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

HERE = Path(__file__).parent
WIDTH, HEIGHT = 416, 400
SMALLEST, LARGEST = 34.0, 380.0
"""Longer side of an object's box in pixels; drawn from a log-uniform distribution."""
CATEGORIES = {"person": 1, "motorcycle": 4, "cat": 17, "cup": 47}
"""COCO's own category ids."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Source:
    """A photograph, the part of it that is pasted, and the object's box, both (x1, y1, x2, y2) in its pixels."""

    file: str
    name: str
    patch: Box
    box: Box


SOURCES = (
    Source("astronaut.png", "person", (0, 0, 400, 512), (22, 16, 364, 512)),
    Source("camera.png", "person", (0, 30, 330, 512), (6, 70, 300, 500)),
    Source("chelsea.png", "cat", (0, 0, 451, 300), (0, 0, 402, 300)),
    Source("coffee.png", "cup", (60, 0, 500, 400), (166, 15, 413, 306)),
    Source("motorcycle_left.png", "motorcycle", (60, 40, 715, 480), (96, 76, 684, 452)),
    Source("motorcycle_right.png", "motorcycle", (10, 40, 665, 480), (51, 76, 630, 452)),
)
GROUNDS = ("brick.png", "grass.png", "gravel.png", "rocket.jpg")


@cache
def photograph(file: str) -> Image.Image:
    """One of scikit-image's photographs, in RGB."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        sys.exit("scikit-image is not installed: pip install --no-deps -r requirements.txt")
    with Image.open(Path(found.origin).parent / "data" / file) as opened:
        return opened.convert("RGB")


def ground(generator: np.random.Generator) -> Image.Image:
    """A random cut of a texture or of the sky around a rocket, scaled to the scene, of random brightness and tint."""
    file = GROUNDS[int(generator.integers(len(GROUNDS)))]
    picture = photograph(file)
    if file == "rocket.jpg":
        picture = picture.crop((0, 0, 250, 200))
    share = generator.uniform(0.5, 1.0)
    width = int(min(picture.width, picture.height * WIDTH / HEIGHT) * share)
    height = int(width * HEIGHT / WIDTH)
    left = int(generator.integers(0, picture.width - width + 1))
    top = int(generator.integers(0, picture.height - height + 1))
    cut = picture.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    tint = generator.uniform(0.7, 1.1, size=3) * generator.uniform(0.6, 1.1)
    return Image.fromarray((np.asarray(cut) * tint).clip(0, 255).astype(np.uint8))


def patch_of(source: Source, size: float, generator: np.random.Generator) -> tuple[Image.Image, Box]:
    """The pasted part with its object's longer side at ``size`` pixels, and the box inside it."""
    x1, y1, x2, y2 = source.patch
    scale = size / max(source.box[2] - source.box[0], source.box[3] - source.box[1])
    width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    patch = photograph(source.file).crop((int(x1), int(y1), int(x2), int(y2)))
    patch = patch.resize((width, height), Image.Resampling.LANCZOS)
    left, right = (source.box[0] - x1) * scale, (source.box[2] - x1) * scale
    if generator.random() < 0.5:
        patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, right = width - right, width - left
    patch = ImageEnhance.Brightness(patch).enhance(generator.uniform(0.7, 1.25))
    patch = ImageEnhance.Contrast(patch).enhance(generator.uniform(0.8, 1.2))
    return patch, (left, (source.box[1] - y1) * scale, right, (source.box[3] - y1) * scale)


def paste(scene: Image.Image, patch: Image.Image, left: int, top: int) -> None:
    """Paste with edges that fade over a twentieth of the patch, so that the frame is no object of its own."""
    margin = max(1, min(patch.size) // 20)
    mask = Image.new("L", patch.size, 0)
    ImageDraw.Draw(mask).rectangle((margin, margin, patch.width - margin - 1, patch.height - margin - 1), fill=255)
    scene.paste(patch, (left, top), mask.filter(ImageFilter.GaussianBlur(margin / 2)))


def compose(generator: np.random.Generator) -> tuple[Image.Image, list[tuple[str, Box]]]:
    """One scene and its objects; photographs never overlap."""
    scene = ground(generator)
    taken: list[tuple[int, int, int, int]] = []
    objects: list[tuple[str, Box]] = []
    for _ in range(int(generator.integers(1, 5))):
        source = SOURCES[int(generator.integers(len(SOURCES)))]
        size = float(np.exp(generator.uniform(np.log(SMALLEST), np.log(LARGEST))))
        patch, box = patch_of(source, size, generator)
        if patch.width > WIDTH or patch.height > HEIGHT:
            continue
        for _attempt in range(20):
            left = int(generator.integers(0, WIDTH - patch.width + 1))
            top = int(generator.integers(0, HEIGHT - patch.height + 1))
            right, bottom = left + patch.width, top + patch.height
            if all(left >= t[2] or right <= t[0] or top >= t[3] or bottom <= t[1] for t in taken):
                break
        else:
            continue
        paste(scene, patch, left, top)
        taken.append((left, top, right, bottom))
        objects.append((source.name, (box[0] + left, box[1] + top, box[2] + left, box[3] + top)))
    noise = generator.normal(0, generator.uniform(0, 6), size=(HEIGHT, WIDTH, 1))
    pixels: NDArray[np.uint8] = (np.asarray(scene) + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels), objects


def write(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """``count`` scenes into ``folder``; returns their COCO annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(1, count + 1):
        scene, objects = compose(generator)
        name = f"{number:04d}.jpg"
        scene.save(folder / name, quality=95)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for label, (x1, y1, x2, y2) in objects:
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": CATEGORIES[label],
                "bbox": [round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1)],
                "area": round((x2 - x1) * (y2 - y1), 1),
                "iscrowd": 0,
            }
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for name, number in CATEGORIES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=HERE / "scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="labelled scenes")
    parser.add_argument("--frames", type=int, default=32, help="scenes for calibration")
    args = parser.parse_args()

    truth = write(args.output / "val", args.count, args.seed)
    (args.output / "val.json").write_text(json.dumps(truth))
    write(args.output / "calib", args.frames, args.seed + 10_000)
    small = sum(item["area"] < 32**2 for item in truth["annotations"])
    print(f"{args.count} scenes, {len(truth['annotations'])} objects, {small} of them small; {args.frames} frames")


if __name__ == "__main__":
    main()
