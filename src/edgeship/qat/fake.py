"""Fake quantizers: float values on an 8-bit grid, with gradients.

Activations have a learned step size: S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020
(https://arxiv.org/abs/1902.08153), with PyTorch's own kernel. It is learned as the logarithm of its change, so that
it stays positive and a step of the optimizer is relative. Weights take the scale of their largest magnitude in every
pass, as they do when the trained graph is written.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeship.qat.rounding import Grid

LARGEST = 127
TINY = float(torch.finfo(torch.float32).tiny) * LARGEST


class ActivationQuantizer(nn.Module):
    """Rounds to the grid of ``grid`` at first, then to the learned one. Any float tensor in, its shape and type out."""

    start: torch.Tensor
    zero: torch.Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.growth = nn.Parameter(torch.zeros(1))
        self.register_buffer("start", torch.tensor([grid.scale]), persistent=False)
        self.register_buffer("zero", torch.tensor([float(grid.zero)]), persistent=False)

    @property
    def scale(self) -> float:
        """The learned scale."""
        return float((self.start * torch.exp(self.growth.detach())).item())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` rounded."""
        scale = self.start * torch.exp(self.growth)
        factor = 1.0 / math.sqrt(max(values.numel(), 1) * self.grid.high)
        rounded: torch.Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            values.float(), scale, self.zero, self.grid.low, self.grid.high, factor
        )
        return rounded.to(values.dtype)


class WeightQuantizer(nn.Module):
    """Rounds a weight to int8, symmetric, one scale for each slice along ``axis``; None: one for all.

    With one scale for all, ``forward`` takes the factor by which the deployed weight of each output channel differs,
    because a batch normalization behind it is part of it there.
    """

    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis

    def forward(
        self,
        weight: torch.Tensor,
        gamma: torch.Tensor | None = None,
        variance: torch.Tensor | None = None,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """``weight`` rounded; ``gamma``, ``variance`` and ``eps`` are those of a batch normalization behind it."""
        weight = weight.float()
        axis = self.axis
        magnitudes = weight.detach().abs()
        if axis is not None:
            peak = magnitudes.amax(dim=[index for index in range(weight.ndim) if index != axis])
        elif gamma is None or variance is None:
            axis, peak = 0, magnitudes.amax().expand(weight.shape[0])
        else:
            factor = (gamma.detach() / torch.sqrt(variance + eps)).abs()
            whole = (magnitudes.flatten(1).amax(dim=1) * factor).amax()
            axis, peak = 0, whole / factor.clamp_min(TINY)
        scale = torch.where(peak > TINY, peak / LARGEST, torch.ones_like(peak))
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -LARGEST, LARGEST)
