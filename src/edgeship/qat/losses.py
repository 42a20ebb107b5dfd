"""What training makes small: the distance to the FP32 model, or what the user's step returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgeship.errors import EdgeshipError, TrainingError
from edgeship.prepare.model import flat_outputs
from edgeship.qat.batches import Batch, inputs_of, on_device

LEAST = 1e-12
FLAT = 1e-6
"""Share of its mean square below which the variance of an output is taken for none."""


@dataclass(frozen=True)
class Distill:
    """The FP32 model teaches: squared error of every output over its variance, no labels needed."""

    teacher: nn.Module
    names: tuple[str, ...]
    """The model's inputs in call order."""
    weights: tuple[torch.Tensor, ...]
    """One over the variance of each output, as it was measured on frames: the same for every batch and process."""

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss: 0 for equal answers, about 1 for a constant one."""
        inputs = inputs_of(batch, self.names)
        wanted, found = self._answers(self.teacher, inputs), _floats(model(*inputs))
        parts = [
            ((ours - theirs).square() * weight).mean()
            for ours, theirs, weight in zip(found, wanted, self.weights, strict=True)
        ]
        return torch.stack(parts).mean()

    def measured(self, batches: Sequence[Batch], device: str) -> Distill:
        """The same with the weights of these batches."""
        spreads: list[Spread] = []
        for batch in batches:
            wanted = self._answers(self.teacher, inputs_of(on_device(batch, device), self.names))
            spreads = spreads or [Spread() for _ in wanted]
            for spread, values in zip(spreads, wanted, strict=True):
                spread.add(values)
        return replace(self, weights=tuple(spread.weight().to(device) for spread in spreads))

    @staticmethod
    def _answers(teacher: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return _floats(teacher(*inputs))


def _floats(answers: Any) -> list[torch.Tensor]:
    return [value.float() for _, value in flat_outputs(answers) if value.is_floating_point()]


@dataclass
class Spread:
    """The variance of an output over frames."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Count a batch."""
        values = values.double()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    def weight(self) -> torch.Tensor:
        """One over the variance; a scalar."""
        square = self.squares / max(1, self.count)
        variance = square - (self.total / max(1, self.count)) ** 2
        return torch.tensor(1.0 / max(variance, FLAT * square, LEAST))


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


def summed_loss(loss: Loss, model: nn.Module, batches: Sequence[Batch]) -> tuple[float, float]:
    """(sum of the losses of batches, sum of their weights), without gradients.

    A batch weighs as many frames as it has; one of the user's step, whose frames are not known, weighs 1.
    """
    total, weights = 0.0, 0.0
    with torch.no_grad():
        for batch in batches:
            weight = float(len(inputs_of(batch, loss.names)[0])) if isinstance(loss, Distill) else 1.0
            total += weight * float(loss(model, batch))
            weights += weight
    return total, weights
