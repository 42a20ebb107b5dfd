"""Networks of transformers, small and with random weights; ``recipe`` is the code of docs/how-to/hugging-face.md."""

from __future__ import annotations

import tempfile

import recipe
import torch
from torch import nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

CLASSES = 5
EAGER = {"attn_implementation": "eager"}


class Deployed(nn.Module):
    """As RT-DETR and D-FINE are deployed: beside the image the size (height, width) of the original, int64 (batch, 2);
    labels (batch, queries), boxes (batch, queries, 4) in the original's pixels and scores (batch, queries) out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, pixel_values: torch.Tensor, orig_target_sizes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, boxes = self.inner(pixel_values)
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        size = orig_target_sizes.flip(-1).repeat(1, 2).to(boxes.dtype)
        return labels, torch.cat([centre - half, centre + half], -1) * size[:, None], scores


def detr() -> nn.Module:
    """DETR: a ResNet, an encoder layer, two decoder layers, ten queries."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=64,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=128, decoder_ffn_dim=128, encoder_attention_heads=4,
        decoder_attention_heads=4, num_queries=10, num_labels=CLASSES,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        DetrForObjectDetection._from_config(config, **EAGER).save_pretrained(folder)
        return recipe.build(folder)


def deployed() -> nn.Module:
    """DETR with its post-processing inside."""
    return Deployed(detr())


def rt_detr() -> nn.Module:
    """RT-DETR: a ResNet of basic blocks, its hybrid encoder, two decoder layers with deformable attention."""
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[32, 48, 64], encoder_hidden_dim=32, d_model=32, num_queries=10,
        encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        decoder_in_channels=[32, 32, 32], num_labels=CLASSES, num_denoising=0, disable_custom_kernels=True,
    )  # fmt: skip
    return recipe.Detector(RTDetrForObjectDetection._from_config(config, **EAGER))


def segformer() -> nn.Module:
    """SegFormer: four stages of one block each, and the all-MLP decoder."""
    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], decoder_hidden_size=64, num_labels=CLASSES
    )
    return recipe.Segmenter(SegformerForSemanticSegmentation._from_config(config, **EAGER))
