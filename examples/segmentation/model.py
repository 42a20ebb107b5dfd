"""A small encoder-decoder that names the kind of clothing at every pixel of a 96×96 greyscale picture."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CLASSES = ("background", "top", "trousers", "shoe", "bag")
"""In the order of the network's outputs; the value of a mask's pixel is a position in this list."""


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3×3 convolution, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class PixelNet(nn.Module):
    """(batch, 1, 96, 96) float32 in, (batch, 5, 96, 96) logits out; 206,000 parameters.

    The encoder halves the picture four times; the decoder doubles it and adds what the encoder had at that size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encode_half = convolution(1, 16, stride=2)
        self.encode_quarter = nn.Sequential(convolution(16, 32, stride=2), convolution(32, 32))
        self.encode_eighth = nn.Sequential(convolution(32, 64, stride=2), convolution(64, 64))
        self.encode_sixteenth = nn.Sequential(convolution(64, 64, stride=2), convolution(64, 64))
        self.decode_eighth = convolution(64 + 64, 32)
        self.decode_quarter = convolution(32 + 32, 32)
        self.decode_half = convolution(32 + 16, 16)
        self.classifier = nn.Conv2d(16, len(CLASSES), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = self.encode_half(images)
        quarter = self.encode_quarter(half)
        eighth = self.encode_eighth(quarter)
        pixels = self.encode_sixteenth(eighth)
        pixels = self.decode_eighth(torch.cat([double(pixels), eighth], dim=1))
        pixels = self.decode_quarter(torch.cat([double(pixels), quarter], dim=1))
        pixels = self.decode_half(torch.cat([double(pixels), half], dim=1))
        return double(self.classifier(pixels))


def double(pixels: torch.Tensor) -> torch.Tensor:
    """Twice the height and width, bilinear."""
    return F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)


def build() -> nn.Module:
    """The network without weights; ``model.weights`` in edgeship.toml brings them."""
    return PixelNet()
