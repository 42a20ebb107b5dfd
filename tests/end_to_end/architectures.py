"""Five kinds of vision network, small: the operators of their full-size relatives, seconds instead of minutes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 64


class Residual(nn.Module):
    """A ResNet basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.short(x))


class ResNet(nn.Module):
    """A stem, pooling, four residual blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1), Residual(64, 128, 2))
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV2's inverted residual with a depthwise convolution."""

    def __init__(self, channels: int, grow: int) -> None:
        super().__init__()
        wide = channels * grow
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class MobileNet(nn.Module):
    """Depthwise separable blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(32, 4), nn.MaxPool2d(2), Inverted(32, 4), Inverted(32, 4))
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class Attention(nn.Module):
    """Multi-head attention from its matrix products."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        source = x if memory is None else memory

        def split(y: Tensor) -> Tensor:
            return y.unflatten(2, (self.heads, -1)).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(source)), split(self.value(source))
        weights = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """One pre-norm transformer layer; with a memory it is a decoder layer."""

    def __init__(self, width: int, *, crossed: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width)
        self.cross = Attention(width) if crossed else None
        self.mlp = nn.Sequential(nn.Linear(width, width * 4), nn.GELU(), nn.Linear(width * 4, width))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        x = x + self.own(self.norms[0](x))
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), memory)
        return x + self.mlp(self.norms[2](x))


class ViT(nn.Module):
    """Patches, a class token, two transformer layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 1 + (SIZE // 8) ** 2, width) * 0.02)
        self.layers = nn.Sequential(Encoder(width), Encoder(width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        token = self.token.expand(images.shape[0], -1, -1)
        return self.head(self.layers(torch.cat((token, patches), 1) + self.places)[:, 0])


class Detr(nn.Module):
    """A convolutional backbone, a transformer with object queries, and heads for classes and boxes."""

    def __init__(self, width: int = 64, queries: int = 20) -> None:
        super().__init__()
        self.backbone = nn.Sequential(Residual(3, 32, 2), Residual(32, width, 2), Residual(width, width, 2))
        self.places = nn.Parameter(torch.randn(1, (SIZE // 8) ** 2, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.encoder, self.decoder = Encoder(width), Encoder(width, crossed=True)
        self.classes, self.boxes = nn.Linear(width, 5), nn.Linear(width, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(self.backbone(images).flatten(2).transpose(1, 2) + self.places)
        found = self.decoder(self.queries.expand(images.shape[0], -1, -1), memory)
        return self.classes(found), self.boxes(found).sigmoid()


class UNet(nn.Module):
    """Down, up with transposed convolution and interpolation, skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(3, 16), self._block(16, 32)
        self.deep = self._block(32, 64)
        self.up2, self.up1 = nn.ConvTranspose2d(64, 32, 2, 2), nn.Conv2d(32, 16, 1)
        self.merge2, self.merge1 = self._block(64, 32), self._block(32, 16)
        self.head = nn.Conv2d(16, 4, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        first = self.down1(images)
        second = self.down2(F.max_pool2d(first, 2))
        deep = self.deep(F.max_pool2d(second, 2))
        second = self.merge2(torch.cat((self.up2(deep), second), 1))
        wide = F.interpolate(self.up1(second), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.merge1(torch.cat((wide, first), 1)))


def _built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def resnet() -> nn.Module:
    return _built(ResNet)


def mobilenet() -> nn.Module:
    return _built(MobileNet)


def vit() -> nn.Module:
    return _built(ViT)


def detr() -> nn.Module:
    return _built(Detr)


def unet() -> nn.Module:
    return _built(UNet)
