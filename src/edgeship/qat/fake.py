"""Fake quantizers: float values on an 8-bit grid, with gradients.

Activations have a learned step size: S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020
(https://arxiv.org/abs/1902.08153). It is learned as the logarithm of its change, so that it stays positive and a step
of the optimizer is relative. Weights take the scale of their largest magnitude in every pass, as they do when the
trained graph is written.

PyTorch's kernels with a learned scale, or with one for each channel, wait for the GPU twice a call, and the first takes
float32 alone. Here its plain kernel rounds activations in the type that they have, and nothing waits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from edgeship.qat.rounding import Grid

LARGEST = 127
TINY = float(torch.finfo(torch.float32).tiny) * LARGEST
SAMPLE = 1 << 20
"""Values of a tensor that the gradient of its scale is summed over: all, or of a larger one so many …"""
BLOCK = 1024
"""… in blocks of this length, spread evenly."""


class _Round(torch.autograd.Function):
    """Activations on their grid: a straight-through gradient inside it, none outside, and LSQ's for the scale."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, growth: torch.Tensor, quantizer: ActivationQuantizer) -> torch.Tensor:
        grid = quantizer.grid
        rounded: torch.Tensor
        rounded, inside = torch.ops.aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            values, quantizer.start * torch.exp(growth), quantizer.zero, quantizer.on, grid.low, grid.high
        )
        ctx.save_for_backward(values, rounded, inside)
        ctx.factor = 1.0 / math.sqrt(max(values.numel(), 1) * quantizer.processes * grid.high)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, rounded, inside = ctx.saved_tensors
        (gradient,) = gradients
        if _is_channels_last(values):
            gradient = gradient.contiguous(memory_format=torch.channels_last)  # the same places in all four
        given, found, right, kept = (_some(item) for item in (gradient, rounded, values, inside))
        factor = ctx.factor * gradient.numel() / max(given.numel(), 1)
        error = found - right * kept  # of the scale's logarithm: q s - x inside the grid, its end outside
        slope = (given * error).sum(dtype=torch.float32) * factor
        return gradient * inside, slope.reshape(1), None


class _Nearest(torch.autograd.Function):
    """Weights on the grid of a scale that holds them all: a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        del ctx
        return torch.round(weight / scale) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        del ctx
        return gradients[0], None


def _is_channels_last(values: torch.Tensor) -> bool:
    """Whether a tensor lies in memory by rows of channels, and not also as its axes say."""
    return values.ndim == 4 and not values.is_contiguous() and values.is_contiguous(memory_format=torch.channels_last)


def _some(values: torch.Tensor) -> torch.Tensor:
    """The values as one row, or :data:`SAMPLE` of them at least; the same places for tensors of the same shape."""
    row = (values.permute(0, 2, 3, 1) if _is_channels_last(values) else values).flatten()
    every = row.numel() // SAMPLE
    if every < 2:
        return row
    return row[: row.numel() // BLOCK * BLOCK].view(-1, BLOCK)[::every]


class ActivationQuantizer(nn.Module):
    """Rounds to the grid of ``grid`` at first, then to the learned one. Any float tensor in, its shape and type out."""

    start: torch.Tensor
    zero: torch.Tensor
    on: torch.Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.processes = 1
        """How many share the frames of a step: LSQ's factor of the gradient counts the values of all of them."""
        self.growth = nn.Parameter(torch.zeros(1))
        self.register_buffer("start", torch.tensor([grid.scale]), persistent=False)
        self.register_buffer("zero", torch.tensor([grid.zero], dtype=torch.int32), persistent=False)
        self.register_buffer("on", torch.ones(1, dtype=torch.int64), persistent=False)

    @property
    def scale(self) -> float:
        """The learned scale."""
        return float((self.start * torch.exp(self.growth.detach())).item())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` rounded."""
        rounded: torch.Tensor = _Round.apply(values, self.growth, self)  # type: ignore[no-untyped-call]
        return rounded


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
        fixed = weight.detach()
        rest = [index for index in range(weight.ndim) if index != (0 if self.axis is None else self.axis)]
        peak = torch.linalg.vector_norm(fixed, math.inf, dim=rest, keepdim=True)
        if self.axis is None and (gamma is None or variance is None):
            peak = peak.amax()
        elif self.axis is None and gamma is not None and variance is not None:
            factor = (gamma.detach() / torch.sqrt(variance + eps)).abs().reshape(peak.shape)
            peak = (peak * factor).amax() / factor.clamp_min(TINY)
        rounded: torch.Tensor = _Nearest.apply(weight, peak.clamp_min(TINY) / LARGEST)  # type: ignore[no-untyped-call]
        return rounded
