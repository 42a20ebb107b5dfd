"""Projects as a user has them: the Fashion-MNIST example cut down, and what a command of it answered."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FASHION = ROOT / "examples" / "fashion"
CONFIG = """
[model]
source  = "model:build"
weights = "weights.safetensors"
[model.inputs.images]
shape = ["batch", 1, 28, 28]
[preprocess]
fit   = "stretch"
color = "gray"
mean  = [73.0]
std   = [90.0]
[calibration]
images = "calib/"
count  = 32
method = "minmax"
[evaluation]
images  = "val/"
classes = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"]
[target]
batch = { min = 1, opt = 4, max = 8 }
[candidates]
precisions = ["fp32", "int8"]
reduced_range = false
[benchmark]
warmup_s = 0.05
min_s = 0.1
max_s = 2.0
min_samples = 20
precision = 0.95
[gate]
latency_p99_ms = 1000.0
max_drop = { top1 = 0.5 }
confidence = 0
accept_low_confidence = true
"""


def code_of(page: str) -> str:
    """The Python of a how-to page, as it stands there."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What ``--json`` printed."""
        return json.loads(self.out)


Edgeship = Callable[..., Done]


@dataclass(frozen=True)
class Project:
    """A folder with a model, images and an edgeship.toml."""

    folder: Path

    @property
    def config(self) -> Path:
        """Its edgeship.toml."""
        return self.folder / "edgeship.toml"

    @property
    def out(self) -> Path:
        """Its work folder."""
        return self.folder / "edgeship-out"

    def change(self, old: str, new: str) -> None:
        """Edit the config; the old text must be there."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def result(self) -> Any:
        """The last run's result.json."""
        return json.loads((self.out / "result.json").read_text())

    def stages(self) -> dict[str, bool]:
        """Stage name → whether the last run reused it."""
        return {item["name"]: item["cached"] for item in self.result()["stages"]}


def make_project(folder: Path, per_class: int = 6) -> Project:
    """The Fashion-MNIST example with a few images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.py", "weights.safetensors"):
        shutil.copyfile(FASHION / name, folder / name)
    (folder / "calib").mkdir()
    for image in sorted((FASHION / "calib").glob("*.png"))[:40]:
        shutil.copyfile(image, folder / "calib" / image.name)
    for place in sorted((FASHION / "val").iterdir()):
        if place.is_dir():
            (folder / "val" / place.name).mkdir(parents=True)
            for image in sorted(place.glob("*.png"))[:per_class]:
                shutil.copyfile(image, folder / "val" / place.name / image.name)
    (folder / "edgeship.toml").write_text(CONFIG)
    return Project(folder)
