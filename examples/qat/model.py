"""A depthwise-separable network for 28×28 greyscale pictures of clothing, built as MobileNets are.

Each depthwise convolution has its batch normalization. Folded into the weights, as every engine does it, the
normalization gives each channel a scale of its own, and one INT8 scale for a whole weight has to hold them all.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10
STAGES = ((24, 48, 1), (48, 64, 2), (64, 96, 1), (96, 128, 1))
"""Channels in, channels out and stride of each separable block."""


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class SeparableNet(nn.Module):
    """(batch, 1, 28, 28) float32 in, (batch, 10) logits out; about 27,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [convolution(1, STAGES[0][0], 3, stride=2)]
        for inputs, outputs, stride in STAGES:
            blocks.append(convolution(inputs, inputs, 3, stride, groups=inputs))
            blocks.append(convolution(inputs, outputs, 1))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(STAGES[-1][1], CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def build() -> nn.Module:
    """The network without weights; ``model.weights`` in edgeship.toml brings them."""
    return SeparableNet()
