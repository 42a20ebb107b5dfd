"""Trains the checkpoint of this example: two to four minutes on two CPU cores.

    sudo apt-get install dataset-fashion-mnist
    python train.py

It learns from the train split without its last images, among which are the calibration frames (see make_data.py),
looks at the test split only once, at the end, and writes weights.safetensors.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import numpy as np
import torch
from idx import FOLDER, split
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
HELD_OUT = 5_000
"""Images at the end of the train split that training never sees; the calibration frames come from them."""


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """The preprocessing of edgeship.toml: (pixel - 73) / 90, one channel."""
    return (torch.from_numpy(images.astype(np.float32)).unsqueeze(1) - 73.0) / 90.0


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 share of right answers."""
    model.eval()
    right = sum(
        int((model(part).argmax(1) == truth).sum())
        for part, truth in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, batch: int = 128) -> None:
    """SGD with Nesterov momentum on a one-cycle schedule; half of each batch is mirrored."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.15, total_steps=epochs * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images))
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            pixels = images[chosen]
            pixels = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, pixels.flip(3), pixels)
            loss = loss_of(model(pixels.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1} of {epochs}: loss {total / steps:.3f}, {time.perf_counter() - start:.1f} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder of the four idx.gz files")
    parser.add_argument("--example", type=Path, default=HERE, help="the folder whose model.py is trained")
    parser.add_argument("--output", type=Path, help="default: weights.safetensors in that folder")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path.insert(0, str(args.example))
    output = args.output or args.example / "weights.safetensors"

    torch.manual_seed(args.seed)
    images, labels = split("train", args.data)
    model = importlib.import_module("model").build().to(memory_format=torch.channels_last)
    train(model, to_tensor(images[:-HELD_OUT]), torch.from_numpy(labels[:-HELD_OUT].astype(np.int64)), args.epochs)

    images, labels = split("t10k", args.data)
    top1 = accuracy(model, to_tensor(images), torch.from_numpy(labels.astype(np.int64)))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, output)
    print(f"top-1 {top1:.4f} on {len(labels)} test images; {output} has {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
