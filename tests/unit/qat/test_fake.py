"""Fake quantizers: the values of the grid, and gradients that can be checked by hand."""

from __future__ import annotations

import numpy as np
import torch

from edgeship.qat.fake import ActivationQuantizer, WeightQuantizer
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


def test_the_scale_stays_positive_and_moves_in_relative_steps() -> None:
    quantizer = ActivationQuantizer(GRID)
    with torch.no_grad():
        quantizer.growth += -0.7
    assert np.isclose(quantizer.scale, 0.5 * np.exp(-0.7), rtol=1e-6)


def test_weights_have_a_scale_for_each_channel_and_127_steps() -> None:
    weight = torch.tensor([[1.27, 0.004], [0.0, 0.0], [-12.7, 0.04]])
    found = WeightQuantizer(0)(weight)
    torch.testing.assert_close(found, torch.tensor([[1.27, 0.0], [0.0, 0.0], [-12.7, 0.0]]))


def test_one_scale_for_all_weights_counts_the_normalization_behind() -> None:
    weight = torch.tensor([1.0, 1.0, 0.26]).reshape(3, 1, 1, 1)
    gamma, variance = torch.tensor([1.0, -10.0, 10.0]), torch.tensor([1.0, 1.0, 1.0])
    found = WeightQuantizer(None)(weight, gamma, variance, 0.0).flatten()
    step = 10.0 / 127  # of the folded weights 1, -10, 2.6
    folded = torch.round(torch.tensor([1.0, -10.0, 2.6]) / step) * step
    torch.testing.assert_close(found * gamma, folded, rtol=1e-5, atol=1e-6)
