"""What training makes small: the distance to the FP32 model, or what the user's step returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeship.errors import EdgeshipError, TrainingError
from edgeship.prepare.model import flat_outputs
from edgeship.qat.batches import Batch, inputs_of

LEAST = 1e-12


@dataclass(frozen=True)
class Distill:
    """The FP32 model teaches: squared error of every output over its variance, no labels needed."""

    teacher: nn.Module
    names: tuple[str, ...]
    """The model's inputs in call order."""

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss: 0 for equal answers, about 1 for a constant one."""
        inputs = inputs_of(batch, self.names)
        with torch.no_grad():
            wanted = [value.float() for _, value in flat_outputs(self.teacher(*inputs)) if value.is_floating_point()]
        found = [value.float() for _, value in flat_outputs(model(*inputs)) if value.is_floating_point()]
        parts = [relative_error(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the variance of what is wanted; a scalar."""
    spread = wanted.var(correction=0).clamp_min(LEAST)
    return (found - wanted).square().mean() / spread


@dataclass(frozen=True)
class UserStep:
    """The user's ``step(model, batch) -> loss``."""

    name: str
    step: Callable[..., Any]

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """What the step returned.

        Raises:
            TrainingError: It raised, or returned no scalar tensor with a gradient.
        """
        try:
            loss = self.step(model, batch)
        except EdgeshipError as error:
            raise TrainingError(
                f"{self.name} failed: {error.found}",
                expected="step(model, batch) that returns a loss; the model answers as it was exported, in eval mode",
                do=error.do,
            ) from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise TrainingError(f"{self.name} returned {what}", expected="the loss: a tensor with one value")
        return loss.reshape(())


Loss = Distill | UserStep


def mean_loss(loss: Loss, model: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean loss over batches, without gradients."""
    with torch.no_grad():
        values = [float(loss(model, batch)) for batch in batches]
    return sum(values) / len(values)
