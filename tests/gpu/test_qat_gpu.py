"""Fake quantizers on CUDA: in half precision, under autocast, as on the CPU."""

from __future__ import annotations

import torch

from edgeship.qat.fake import ActivationQuantizer
from edgeship.qat.rounding import Grid


def test_rounding_and_its_gradients_in_half_precision_are_those_of_the_cpu() -> None:
    grid = Grid("x", 0.03, 117, 0, 255)
    values = torch.randn(16, 32, 14, 14, generator=torch.Generator().manual_seed(0)) * 1.5
    weight = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    slopes = []
    for device, dtype in (("cpu", torch.float32), ("cuda:0", torch.float16)):
        quantizer = ActivationQuantizer(grid).to(device)
        given = values.half().to(device, dtype).requires_grad_()  # the same values on both
        with torch.autocast("cuda", torch.float16, enabled=dtype == torch.float16):
            found = quantizer(given)
        assert found.dtype == dtype
        found.backward(weight.to(device, dtype))
        assert quantizer.growth.grad is not None and given.grad is not None
        inside = (values.half().float() / grid.scale + grid.zero).round()
        kept = ((inside >= 0) & (inside <= 255)).float().mean()
        assert abs((given.grad != 0).float().mean().item() - kept.item()) < 1e-3
        slopes.append(quantizer.growth.grad.cpu())
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0.05, atol=0.02)
