"""What training makes small: the distance to the FP32 model, or what the user's step returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """The FP32 model teaches: squared error of every output over its variance, no labels needed.

    An output that joins tensors, as boxes and scores, counts each of them by its own variance: else the largest would
    be all that is learned.
    """

    teacher: nn.Module
    names: tuple[str, ...]
    """The model's inputs in call order."""
    weights: tuple[torch.Tensor, ...]
    """One over the variance of each output, or of each value's part of it, as it was measured on frames: the same for
    every batch and process."""
    places: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """By number of the output, where it joins tensors: the number of its part for each value, [1, …]."""

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
            spreads = spreads or [Spread(self.places.get(number)) for number in range(len(wanted))]
            for spread, values in zip(spreads, wanted, strict=True):
                spread.add(values)
        return replace(self, weights=tuple(spread.weight().to(device) for spread in spreads))

    @staticmethod
    def _answers(teacher: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return _floats(teacher(*inputs))


def _floats(answers: Any) -> list[torch.Tensor]:
    return [value.float() for _, value in flat_outputs(answers) if value.is_floating_point()]


class Spread:
    """The variance of an output, or of each of its parts, over frames."""

    def __init__(self, places: torch.Tensor | None = None) -> None:
        """``places``: the number of its part for each value of a frame, [1, …]; None: it is one."""
        self._places = None if places is None else places.long()
        parts = 1 if self._places is None else int(self._places.max()) + 1
        self._count, self._total, self._squares = (torch.zeros(parts, dtype=torch.float64) for _ in range(3))

    def add(self, values: torch.Tensor) -> None:
        """Count a batch.

        Raises:
            TrainingError: Its frames have another size than the places.
        """
        values = values.double().cpu()
        if self._places is None:
            self._count += values.numel()
            self._total += values.sum()
            self._squares += values.square().sum()
            return
        if values.shape[1:] != self._places.shape[1:]:
            raise TrainingError(
                f"an output has the shape {list(values.shape)} on held-out frames",
                expected=f"[batch, {', '.join(map(str, self._places.shape[1:]))}], as on the calibration frames",
                do="give frames of one size",
            )
        row = self._places.flatten()
        self._count += len(values) * torch.bincount(row, minlength=len(self._count))
        self._total.index_add_(0, row, values.sum(dim=0).flatten())
        self._squares.index_add_(0, row, values.square().sum(dim=0).flatten())

    def weight(self) -> torch.Tensor:
        """One over the variance, a scalar; of parts, for each value of a frame, such that the mean of weighted squares
        is the mean over the parts of their own means."""
        square = self._squares / self._count.clamp_min(1)
        variance = square - (self._total / self._count.clamp_min(1)).square()
        weight = 1.0 / torch.maximum(variance, FLAT * square).clamp_min(LEAST)
        if self._places is None:
            return weight[0].float()
        share = self._count.sum() / (self._count * len(self._count))  # of a part with few values, as much as of any
        return (weight * share)[self._places].float()


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
