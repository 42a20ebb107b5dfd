"""Small real networks for the GPU tests; imported by them, and by edgeship as ``module:callable``."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """Two convolutions and a head, the same weights each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [batch, 3, height, width] → logits [batch, 10]."""
        inner = torch.relu(self.second(torch.relu(self.first(images))))
        return self.head(inner.mean((2, 3)))
