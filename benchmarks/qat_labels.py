"""What ``[qat]`` trains with labels in ``qat.py``: cross-entropy on labelled pictures of clothes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import int8_networks
import torch

TRAINED_ON = 1250
"""Labelled pictures to train on; all figures are of the others."""
BATCH = 32


def step(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch."""
    images, labels = batch
    return torch.nn.functional.cross_entropy(model(images), labels)


def loader() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole batches of an epoch, in a new order; each picture is mirrored or not."""
    images, labels, _ = int8_networks.clothes()
    order = torch.randperm(TRAINED_ON)
    for rows in order[: TRAINED_ON // BATCH * BATCH].split(BATCH):
        pixels = torch.from_numpy(images[rows.numpy()])
        mirrored = torch.rand(BATCH, 1, 1, 1) < 0.5
        yield torch.where(mirrored, pixels.flip(3), pixels), torch.from_numpy(labels[rows.numpy()])
