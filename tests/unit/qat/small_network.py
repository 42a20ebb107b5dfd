"""One small network with all that the rounding has to find, exported once for the tests of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from torch import nn

from edgeship.config import InputSpec
from edgeship.prepare import calibration_cache, export, model
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.calibration_cache import CalibrationCache, Expected
from edgeship.prepare.graph import load_onnx, save_onnx
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.slim import Options, slim

PICTURES = sorted((Path(__file__).parents[3] / "examples/fashion/calib").glob("*.png"))
SIZE = 14


class Small(nn.Module):
    """Batch normalization, a depthwise convolution, a residual sum, SiLU, a concatenation that a convolution reads, and
    a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.join = nn.Conv2d(32, 32, 1)
        self.last = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.norm(self.first(images)))
        b = self.depth(a) + a
        c = torch.cat([nn.functional.silu(b), a], dim=1)
        return self.last(self.join(c).mean(dim=(2, 3)))


@dataclass(frozen=True)
class Case:
    """The network, its program, its graph, its calibration and a few frames."""

    module: nn.Module
    program: Any
    slim: Path
    reference: onnx.ModelProto
    calibration: CalibrationCache
    frames: list[tuple[tuple[str, ...], dict[str, Any]]]


def pictures(count: int) -> np.ndarray[Any, Any]:
    """(count, 1, 14, 14) float32 of real pictures of clothing, about standardized."""
    stack = [np.asarray(Image.open(path).resize((SIZE, SIZE)), np.float32) for path in PICTURES[:count]]
    return ((np.stack(stack) - 73.0) / 90.0)[:, None]


def make_case(folder: Path) -> Case:
    """Everything that training begins with, its files in ``folder``."""
    torch.manual_seed(3)
    module = Small()
    module.norm.weight.data.uniform_(-1.5, 1.5)
    module.norm.running_var.uniform_(0.1, 2.0)
    module.eval()
    loaded = model.Loaded(module, {"images": InputSpec(shape=("batch", 1, SIZE, SIZE))})
    proto, program, _ = export.to_onnx(loaded, loaded.noise({"images": (2, 1, SIZE, SIZE)}, 0), ["output"], 18)
    save_onnx(proto, folder / "exported.onnx")
    slim(folder / "exported.onnx", folder / "model.onnx", Options())
    values = pictures(32)
    frames = [((str(row),), {"images": values[row : row + 8]}) for row in range(0, 32, 8)]
    calibrate(folder / "model.onnx", Listed(frames), folder / "calib.cache", CalibrateOptions(method="minmax"))
    calibration = calibration_cache.load(folder / "calib.cache", Expected())
    reference = infer(load_onnx(folder / "model.onnx"))
    return Case(module, program, folder / "model.onnx", reference, calibration, frames)


class Listed(list[Any]):
    """Batches whose length is the number of frames."""

    def __len__(self) -> int:
        return sum(len(next(iter(feeds.values()))) for _, feeds in self)
