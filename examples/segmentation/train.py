"""Trains the checkpoint of this example: about a minute on two CPU cores.

sudo apt-get install dataset-fashion-mnist
pip install scikit-image==0.26.0
python train.py
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from compose import Clothing, scenes
from idx import FOLDER, split
from make_data import HELD_OUT
from model import CLASSES, build
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent


def pictures(clothing: Clothing, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs float32 [N, 1, 96, 96] as edgeship.toml prepares them, (pixel - 110) / 60, and masks int64 [N, 96, 96]."""
    pairs = list(scenes(clothing, count, seed))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in pairs]).astype(np.float32)).unsqueeze(1)
    return (images - 110.0) / 60.0, torch.from_numpy(np.stack([mask for _, mask in pairs]).astype(np.int64))


@torch.no_grad()
def intersection_over_union(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    """IoU of each class over all pixels."""
    model.eval()
    found = torch.cat([model(part).argmax(1) for part in images.split(32)])
    return {
        name: float(((found == k) & (masks == k)).sum() / ((found == k) | (masks == k)).sum())
        for k, name in enumerate(CLASSES)
    }


def train(model: nn.Module, images: torch.Tensor, masks: torch.Tensor, epochs: int, batch: int = 32) -> None:
    """AdamW on a one-cycle schedule; cross-entropy over pixels."""
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        model.train()
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images))[: steps * batch].split(batch):
            loss = nn.functional.cross_entropy(model(images[chosen]), masks[chosen])
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
    parser.add_argument("--output", type=Path, default=HERE / "weights.safetensors")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = split("train", args.data)
    clothing = Clothing(images[:-HELD_OUT], labels[:-HELD_OUT])
    model = build()
    train(model, *pictures(clothing, args.pictures, args.seed), args.epochs)

    shares = intersection_over_union(model, *pictures(Clothing(*split("t10k", args.data)), 200, seed=2))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, args.output)
    print(", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
    print(f"mIoU {np.mean(list(shares.values())):.3f}; {args.output} has {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
