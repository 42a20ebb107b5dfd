"""Small real networks for the tests of ``prepare``; imported by them, and by edgeship as ``module:callable``."""

from __future__ import annotations

import torch
from torch import nn


class TwoInputs(nn.Module):
    """Two inputs, and a dict with a tensor and a tuple as the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor, extra: torch.Tensor) -> dict[str, object]:
        pooled = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return {"logits": self.head(pooled), "aux": (pooled + extra, pooled * 2)}


class Small(nn.Module):
    """One convolution and a head."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=2)
        self.head = nn.Linear(channels, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


class Frozen(Small):
    """Uses the batch size as a constant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.reshape(2, 3, 16, 16))


class NotFinite(Small):
    """Divides by zero."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / torch.zeros(4)


class Branching(Small):
    """Decides by the values of its input."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.sum() > 0:
            return super().forward(images)
        return images.mean((2, 3))


class Untranslatable(Small):
    """An operator that no ONNX translation exists for."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(super().forward(images))


def not_a_module() -> dict[str, int]:
    """What a user might return by mistake."""
    return {"epoch": 3}


def raises() -> nn.Module:
    """A builder that fails."""
    raise FileNotFoundError("backbone.yaml")
