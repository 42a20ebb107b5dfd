"""A small convolutional network for 28×28 greyscale pictures of clothing.

It is built of the blocks that matter to INT8: plain convolutions wide enough to gain from it, and two depthwise ones,
which lose the most when weights are quantized with one scale for all channels.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot")
"""In the order of the network's outputs, which is the order of Fashion-MNIST's labels."""


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class FashionNet(nn.Module):
    """(batch, 1, 28, 28) float32 in, (batch, 10) logits out; about 175,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 32, stride=2),
            convolution(32, 96),
            convolution(96, 96, groups=96),
            convolution(96, 96, kernel=1),
            convolution(96, 128, stride=2),
            convolution(128, 128, groups=128),
            convolution(128, 160, kernel=1),
        )
        self.classifier = nn.Linear(160, len(CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.features(images).mean(dim=(2, 3))
        return self.classifier(pooled)


def build() -> nn.Module:
    """The network without weights; ``model.weights`` in edgeship.toml brings them."""
    return FashionNet()
