"""The state of a training on disk: tensors as safetensors, numbers as JSON, never a pickle.

A checkpoint is a folder that is renamed when it is whole. A killed training goes on from the newest one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from edgeship.files import finished_folder, storage_errors, write_json

FOLDER = "checkpoint"


@dataclass
class Checkpoint:
    """Everything that the rest of a training depends on."""

    step: int
    tensors: dict[str, torch.Tensor]
    """The student's parameters and quantizers."""
    best: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """Its state as ``<number of the parameter>.<name>``."""
    random: torch.Tensor
    numbers: dict[str, Any]
    """The curve and the like."""


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint into ``folder``, then remove the one before."""
    place = folder / f"{FOLDER}-{checkpoint.step:08d}"
    with finished_folder(place) as temporary, storage_errors(temporary):
        for name in ("tensors", "best", "optimizer"):
            part = {key: value.detach().cpu().contiguous().clone() for key, value in getattr(checkpoint, name).items()}
            save_file(part, temporary / f"{name}.safetensors")
        save_file({"random": checkpoint.random}, temporary / "random.safetensors")
        write_json(temporary / "numbers.json", {"step": checkpoint.step, **checkpoint.numbers})
    for old in _found(folder)[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint; None: there is none."""
    found = _found(folder)
    if not found:
        return None
    place = found[-1]
    numbers = json.loads((place / "numbers.json").read_text(encoding="utf-8"))
    parts = {name: load_file(place / f"{name}.safetensors") for name in ("tensors", "best", "optimizer")}
    random = load_file(place / "random.safetensors")["random"]
    return Checkpoint(numbers.pop("step"), parts["tensors"], parts["best"], parts["optimizer"], random, numbers)


def remove(folder: Path) -> None:
    """Remove all checkpoints: the training is finished."""
    for place in _found(folder):
        shutil.rmtree(place, ignore_errors=True)


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{FOLDER}-*"))


def flat_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of an optimizer as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, part in state.items()
        for name, value in part.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Give an optimizer the state that :func:`flat_optimizer` told."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
