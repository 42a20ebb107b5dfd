"""One network, two heads: the boxes of cars and people, and the road that is free to drive on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

OBJECTS = ("car", "person")
"""In the order of the logits of the boxes."""
SURFACES = ("other", "drivable")
"""In the order of the outputs of the road; the value of a mask's pixel is a position in this list."""
SIDE, CELLS = 96, 12


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3×3 convolution, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class TwoHeads(nn.Module):
    """``images`` float32 [batch, 3, 96, 96] →

    ``boxes`` [batch, 144, 4], centre and size from 0 to 1, and ``logits`` [batch, 144, 2] of each of 12×12 cells;
    ``road`` [batch, 2, 96, 96], logits of each pixel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.quarter = nn.Sequential(convolution(3, 16, stride=2), convolution(16, 32, stride=2), convolution(32, 32))
        self.eighth = nn.Sequential(convolution(32, 64, stride=2), convolution(64, 64))
        self.context = nn.Sequential(convolution(64, 64, stride=2), convolution(64, 64))
        self.cells = convolution(128, 64)
        self.box = nn.Conv2d(64, 4, 1)
        self.kind = nn.Conv2d(64, len(OBJECTS), 1)
        self.surface = nn.Sequential(convolution(64 + 32, 32), nn.Conv2d(32, len(SURFACES), 1))
        nn.init.constant_(self.kind.bias, -4.0)  # nearly every cell is empty
        rows, columns = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        self.register_buffer("corners", torch.stack([columns, rows]).float(), persistent=False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        quarter = self.quarter(images)
        eighth = self.eighth(quarter)
        wide = F.interpolate(self.context(eighth), scale_factor=2.0, mode="nearest")
        cells = self.cells(torch.cat([eighth, wide], dim=1))
        raw = self.box(cells).sigmoid()
        centres = (self.corners + raw[:, :2]) / CELLS
        boxes = torch.cat([centres, raw[:, 2:]], dim=1).flatten(2).transpose(1, 2)
        logits = self.kind(cells).flatten(2).transpose(1, 2)
        near = F.interpolate(cells, scale_factor=2.0, mode="nearest")
        surface = self.surface(torch.cat([near, quarter], dim=1))
        road = F.interpolate(surface, scale_factor=4.0, mode="bilinear", align_corners=False)
        return {"boxes": boxes, "logits": logits, "road": road}


def build() -> nn.Module:
    """The network without weights; ``model.weights`` in edgeship.toml brings them."""
    return TwoHeads()
