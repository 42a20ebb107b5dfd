"""What ``[qat]`` trains with labels in ``qat.py``: cross-entropy on labelled pictures of clothes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import int8_networks
import torch

TRAINED_ON = 1250
"""Labelled pictures to train on; all figures are of the others."""
HELD_OUT = 250
"""Of them, those on which the best weights are chosen."""
BATCH = 32
SHIFT = 1
"""Pixels by which a picture is moved at most: of so few labelled ones, each is seen ten times."""
SETTINGS = {
    "step": "qat_labels:step", "data": "qat_labels:loader", "validation": "qat_labels:held_out",
    "steps": 300, "lr": 3e-4,
}  # fmt: skip
"""The ``[qat]`` table."""


def step(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch."""
    images, labels = batch
    return torch.nn.functional.cross_entropy(model(images), labels)


def loader() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole batches of an epoch, in a new order; each picture is mirrored or not, and moved by a pixel or not."""
    images, labels, _ = int8_networks.clothes()
    order = torch.randperm(TRAINED_ON - HELD_OUT)
    for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
        pixels = torch.from_numpy(images[rows.numpy()])
        mirrored = torch.rand(BATCH, 1, 1, 1) < 0.5
        pixels = _moved(torch.where(mirrored, pixels.flip(3), pixels))
        yield pixels, torch.from_numpy(labels[rows.numpy()])


def _moved(pixels: torch.Tensor) -> torch.Tensor:
    """Each picture by up to :data:`SHIFT` pixels both ways, with the darkest value at its edges."""
    wide = torch.nn.functional.pad(pixels, (SHIFT,) * 4, value=float(pixels.amin()))
    places = torch.randint(0, 2 * SHIFT + 1, (len(pixels), 2)).tolist()
    rows, columns = pixels.shape[2:]
    return torch.stack(
        [one[:, top : top + rows, left : left + columns] for one, (top, left) in zip(wide, places, strict=True)]
    )


def held_out() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One batch of labelled pictures that are not trained on."""
    images, labels, _ = int8_networks.clothes()
    rows = slice(TRAINED_ON - HELD_OUT, TRAINED_ON)
    yield torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])
