"""Two small networks that ``int8_numbers.py`` trains in seconds: a vision transformer and a recurrent one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EPOCHS, BATCH = 25, 64


class Block(nn.Module):
    """Attention of four heads and an MLP, each behind a norm (A. Dosovitskiy et al., 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, places, width] → the same."""
        rows, places, width = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(rows, places, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (width // 4) ** -0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(rows, places, width))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class ViT(nn.Module):
    """Patches of 4 × 4, four blocks of width 64, the mean of all places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 49, 64) * 0.02)
        self.blocks = nn.Sequential(*(Block(64) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 1, 28, 28] → [N, 10]."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class Recurrent(nn.Module):
    """Convolutions that halve the picture, and a GRU over its columns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 1, 1)
        self.merge = nn.Linear(32 * 14, 64)
        self.steps, self.head = nn.GRU(64, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 1, 28, 28] → [N, 10]."""
        x = torch.relu(self.second(torch.relu(self.first(images))))
        x = torch.relu(self.merge(x.permute(0, 3, 1, 2).flatten(2)))
        return self.head(self.steps(x)[0][:, -1])


def train(module: nn.Module, images: np.ndarray, labels: np.ndarray) -> None:
    """Cross-entropy on images that are shifted by up to two pixels and mirrored at random."""
    torch.manual_seed(1)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    module.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            shift = torch.randint(-2, 3, (2,)).tolist()
            batch = torch.roll(x[chosen], shift, dims=(2, 3))
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            loss = functional.cross_entropy(module(batch), y[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
