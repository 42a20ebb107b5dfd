"""Trains the checkpoint of this example, a minute or two on two CPU cores: python train.py"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from make_scenes import scenes
from model import CELLS, OBJECTS, SIDE, build
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
Labels = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Classes float32 [N, 144, 2], boxes float32 [N, 144, 4], masks int64 [N, 96, 96]."""


def pictures(count: int, seed: int) -> tuple[torch.Tensor, Labels]:
    """Inputs float32 [N, 3, 96, 96] as edgeship.toml prepares them, (pixel - 110) / 60, and their labels."""
    made = list(scenes(count, seed))
    images = torch.from_numpy(np.stack([picture for picture, _, _ in made]).astype(np.float32)).permute(0, 3, 1, 2)
    kinds, boxes = torch.zeros(count, CELLS**2, len(OBJECTS)), torch.zeros(count, CELLS**2, 4)
    for image, (_, _, objects) in enumerate(made):
        for kind, (x1, y1, x2, y2) in objects:
            box = torch.tensor([x1 + x2, y1 + y2, 2 * (x2 - x1), 2 * (y2 - y1)]) / (2 * SIDE)
            column, row = (box[:2] * CELLS).long().clamp(max=CELLS - 1).tolist()
            kinds[image, row * CELLS + column] = F.one_hot(torch.tensor(kind), len(OBJECTS)).float()
            boxes[image, row * CELLS + column] = box
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in made]).astype(np.int64))
    return (images - 110.0) / 60.0, (kinds, boxes, masks)


def loss_of(found: dict[str, torch.Tensor], labels: Labels) -> torch.Tensor:
    """Focal loss of the classes, L1 of the boxes where an object's centre lies, cross-entropy of the road."""
    kinds, boxes, masks = labels
    likely = F.binary_cross_entropy_with_logits(found["logits"], kinds, reduction="none")
    missed = torch.where(kinds > 0, 1 - found["logits"].sigmoid(), found["logits"].sigmoid())
    there = kinds.sum(2) > 0
    objects = there.sum().clamp(min=1)
    focal = (missed**2 * likely).sum() / objects
    off = (found["boxes"] - boxes).abs()[there].sum() / objects
    return focal + 5 * off + F.cross_entropy(found["road"], masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "weights.safetensors")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=2_400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model: nn.Module = build()
    images, labels = pictures(args.pictures, seed=100 + args.seed)
    batch = 32
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=args.epochs * steps)
    for epoch in range(args.epochs):
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images))[: steps * batch].split(batch):
            loss = loss_of(model(images[chosen]), tuple(item[chosen] for item in labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        spent = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {args.epochs}: loss {total / steps:.3f}, {spent:.1f} s", flush=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, args.output)
    print(f"{args.output} has {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
