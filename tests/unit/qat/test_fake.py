"""Fake quantizers: the values of the grid, and gradients that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeship.qat.fake import SAMPLE, ActivationQuantizer, WeightQuantizer
from edgeship.qat.rounding import Grid

GRID = Grid("x", 0.5, 2, 0, 7)
"""-1 … 2.5 in steps of 0.5."""


def test_activations_are_rounded_to_the_grid_and_clipped_at_its_ends() -> None:
    values = torch.tensor([-3.0, -0.8, 0.0, 0.6, 2.4, 9.0])
    found = ActivationQuantizer(GRID)(values).detach()
    assert found.tolist() == [-1.0, -1.0, 0.0, 0.5, 2.5, 2.5]


def test_gradients_stop_at_clipped_values_and_widen_the_range() -> None:
    quantizer = ActivationQuantizer(GRID)
    values = torch.tensor([0.6, 9.0], requires_grad=True)
    quantizer(values).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 0.0]
    assert quantizer.growth.grad is not None and quantizer.growth.grad.item() > 0.0  # the sum grows with the range


def test_values_and_gradients_are_those_of_pytorchs_learned_rounding() -> None:
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    quantizer = ActivationQuantizer(GRID)
    found = quantizer(values)
    found.backward(weight)
    ours, slope = values.grad, quantizer.growth.grad
    assert ours is not None and slope is not None
    values.grad = None
    scale, zero = torch.tensor([GRID.scale], requires_grad=True), torch.tensor([float(GRID.zero)])
    factor = 1.0 / math.sqrt(values.numel() * GRID.high)
    wanted = torch._fake_quantize_learnable_per_tensor_affine(values, scale, zero, GRID.low, GRID.high, factor)
    wanted.backward(weight)
    assert torch.equal(found, wanted) and values.grad is not None and torch.equal(ours, values.grad)
    assert scale.grad is not None
    torch.testing.assert_close(slope, scale.grad * GRID.scale, rtol=1e-4, atol=1e-6)  # of the logarithm


def test_the_layout_in_memory_changes_neither_values_nor_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = (3 * torch.randn(2, 5, 4, 3, generator=generator)).requires_grad_()
    last = plain.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(2, 5, 4, 3, generator=generator)
    slopes = []
    for values in (plain, last):
        quantizer = ActivationQuantizer(GRID)
        found = quantizer(values)
        found.backward(weight)
        slopes.append(quantizer.growth.grad)
    assert found.is_contiguous(memory_format=torch.channels_last) and torch.equal(
        found, ActivationQuantizer(GRID)(plain)
    )
    assert plain.grad is not None and last.grad is not None and torch.equal(plain.grad, last.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-7)


def test_half_precision_is_rounded_as_it_is() -> None:
    values = torch.tensor([-3.0, 0.6, 9.0], dtype=torch.float16, requires_grad=True)
    quantizer = ActivationQuantizer(GRID)
    found = quantizer(values)
    found.sum().backward()
    assert found.dtype == torch.float16 and found.tolist() == [-1.0, 0.5, 2.5]
    assert values.grad is not None and values.grad.tolist() == [0.0, 1.0, 0.0]
    assert quantizer.growth.grad is not None and quantizer.growth.grad.dtype == torch.float32


def test_the_scale_of_a_large_tensor_has_the_gradient_of_the_whole_from_a_part() -> None:
    values = 3 * torch.randn(3 * SAMPLE, generator=torch.Generator().manual_seed(0))
    quantizer = ActivationQuantizer(GRID)
    quantizer(values).sum().backward()
    inside = (values > -1.25) & (values < 2.75)
    steps = torch.where(inside, (torch.round(values / 0.5) * 0.5 - values), values.clamp(-1.0, 2.5))
    whole = steps.sum() / math.sqrt(values.numel() * GRID.high)
    assert quantizer.growth.grad is not None
    torch.testing.assert_close(quantizer.growth.grad, whole.reshape(1), rtol=0.02, atol=0.0)


def test_the_scale_stays_positive_and_moves_in_relative_steps() -> None:
    quantizer = ActivationQuantizer(GRID)
    with torch.no_grad():
        quantizer.growth += -0.7
    assert np.isclose(quantizer.scale, 0.5 * np.exp(-0.7), rtol=1e-6)


def test_weights_have_a_scale_for_each_channel_and_127_steps() -> None:
    weight = torch.tensor([[1.27, 0.004], [0.0, 0.0], [-12.7, 0.04]])
    found = WeightQuantizer(0)(weight)
    torch.testing.assert_close(found, torch.tensor([[1.27, 0.0], [0.0, 0.0], [-12.7, 0.0]]))


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_and_their_gradients_are_those_of_pytorchs_kernel(axis: int | None) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = WeightQuantizer(axis)(weight)
    found.square().sum().backward()
    ours, weight.grad = weight.grad, None
    of, rest = axis or 0, [index for index in range(4) if index != axis]
    peak = weight.detach().abs().amax(dim=rest).expand(weight.shape[of])
    zero = torch.zeros(weight.shape[of], dtype=torch.int32)
    wanted = torch.fake_quantize_per_channel_affine(weight, peak / 127, zero, of, -127, 127)
    wanted.square().sum().backward()
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(ours, weight.grad, rtol=1e-6, atol=0.0)


def test_one_scale_for_all_weights_counts_the_normalization_behind() -> None:
    weight = torch.tensor([1.0, 1.0, 0.26]).reshape(3, 1, 1, 1)
    gamma, variance = torch.tensor([1.0, -10.0, 10.0]), torch.tensor([1.0, 1.0, 1.0])
    found = WeightQuantizer(None)(weight, gamma, variance, 0.0).flatten()
    step = 10.0 / 127  # of the folded weights 1, -10, 2.6
    folded = torch.round(torch.tensor([1.0, -10.0, 2.6]) / step) * step
    torch.testing.assert_close(found * gamma, folded, rtol=1e-5, atol=1e-6)
