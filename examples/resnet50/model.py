"""ResNet-50 with torchvision's ImageNet weights."""

from __future__ import annotations

from torch import nn


def build(weights: str = "IMAGENET1K_V2") -> nn.Module:
    """(batch, 3, 224, 224) float32 in, (batch, 1000) ImageNet logits out.

    torchvision is imported here and not above, so that this file can be read where torchvision is not installed. The
    weights come from torchvision's cache, or are downloaded into it.
    """
    from torchvision.models import resnet50

    model: nn.Module = resnet50(weights=weights)
    return model
