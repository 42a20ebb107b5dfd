"""PP-OCR's own text detector, through ship: words at angles are found by the decoder db."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from examples_support import install_requirements
from PIL import Image, ImageDraw, ImageFont
from projects import Edgeship
from runtime_figures import of_bundle

from edgeship.data import quads

DETECTOR = Path("rapidocr_onnxruntime", "models", "ch_PP-OCRv4_det_infer.onnx")
WIDTH, HEIGHT = 256, 160
CONFIG = """
[model]
source = "detector.onnx"
[preprocess]
fit = "stretch"
size = [160, 256]
color = "bgr"
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
[candidates]
precisions = ["fp32"]
[evaluation]
task = "rotated"
images = "val/"
labels = "labels/"
classes = ["text"]
decoder = "db"
score_threshold = 0.3
[benchmark]
warmup_s = 0.05
min_s = 0.1
max_s = 1.0
min_samples = 10
precision = 0.9
[gate]
min = { map_dota = 0.5 }
max_drop = { map_dota = 0.2 }
confidence = 0
accept_low_confidence = true
"""


def scenes(folder: Path, count: int) -> None:
    """Two words an image, turned together, with DOTA's labels: the box of the ink."""
    random, font = np.random.default_rng(2), ImageFont.load_default(26)
    (folder / "val").mkdir()
    (folder / "labels").mkdir()
    for number in range(count):
        picture, turn = Image.new("RGB", (WIDTH, HEIGHT), (205, 210, 200)), float(random.uniform(-10, 10))
        draw, boxes = ImageDraw.Draw(picture), []
        for row, word in enumerate(random.choice(["Platform", "No entry", "Exit left", "Way out"], 2, replace=False)):
            place = (int(random.integers(40, 80)), 36 + 60 * row)
            draw.text(place, str(word), font=font, fill=(20, 25, 40))
            boxes.append(draw.textbbox(place, str(word), font=font))
        picture.rotate(turn, Image.Resampling.BICUBIC, fillcolor=(205, 210, 200)).save(folder / "val" / f"{number}.png")
        x1, y1, x2, y2 = np.array(boxes, np.float64).T
        middle, size = np.stack([(x1 + x2) / 2, (y1 + y2) / 2], axis=1), np.stack([x2 - x1, y2 - y1], axis=1)
        angle = -math.radians(turn)  # Pillow turns counter-clockwise
        cos, sin, around = math.cos(angle), math.sin(angle), np.array([WIDTH / 2, HEIGHT / 2])
        turned = (middle - around) @ np.array([[cos, sin], [-sin, cos]]) + around
        corners = quads.from_angles(turned, size, np.full(len(turned), angle))
        lines = [" ".join(f"{value:.2f}" for value in box.ravel()) + " text 0" for box in corners]
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines))


@pytest.mark.slow
def test_words_at_angles_are_found(tmp_path: Path, edgeship: Edgeship) -> None:
    (tmp_path / "requirements.txt").write_text("rapidocr-onnxruntime==1.4.4\n")
    packages = install_requirements(tmp_path / "requirements.txt", tmp_path / "packages")
    (tmp_path / "detector.onnx").write_bytes((packages / DETECTOR).read_bytes())
    scenes(tmp_path, 12)
    (tmp_path / "edgeship.toml").write_text(CONFIG)
    done = edgeship("ship", tmp_path / "edgeship.toml", "--json", timeout=300)
    assert done.code == 0, done.out + done.err
    metrics = done.json["reference"]["metrics"]
    assert metrics["map_dota"] > 0.9
    answered, promised = of_bundle(tmp_path / "edgeship.toml", tmp_path / "edgeship-out" / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
    ran = edgeship("run", tmp_path / "edgeship-out" / "bundle", tmp_path / "val" / "0.png", "--json")
    assert ran.code == 0, ran.err
    assert [box["class"] for box in ran.json["frames"][0]["boxes"]] == ["text", "text"]
