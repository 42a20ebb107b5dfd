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


class VisionBlock(nn.Module):
    """One transformer encoder block on 7 by 7 patches, as exporters write it: no fused attention operator."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.patch = nn.Conv2d(1, width, 7, 7)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 1, 28, 28] → [N, width]."""
        x = self.patch(images).flatten(2).transpose(1, 2)
        n, tokens, width = x.shape
        parts = self.qkv(self.norms[0](x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        x = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return x.mean(1)


def not_a_module() -> dict[str, int]:
    """What a user might return by mistake."""
    return {"epoch": 3}


def raises() -> nn.Module:
    """A builder that fails."""
    raise FileNotFoundError("backbone.yaml")
