"""PyTorch baselines on the CPU: same outputs, the user's module untouched, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeship.errors import DeviceError, UserInputError
from edgeship.prepare import baseline

FEEDS = {"images": np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten())


@pytest.mark.parametrize("name", ["eager", "channels-last"])
def test_a_baseline_gives_the_modules_outputs(name: str) -> None:
    module = network()
    with torch.inference_mode():
        wanted = module(torch.from_numpy(FEEDS["images"])).numpy()
    with baseline.open_baseline(name, module, ("images",), "cpu") as runner:
        timer = runner.timer(FEEDS)
        taken = timer()
        (timed,) = timer.outputs().values()
        (inferred,) = runner.infer(FEEDS).values()
    assert taken.wall_ms > 0
    assert taken.device_ms is None
    np.testing.assert_allclose(timed, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(inferred, wanted, rtol=1e-5, atol=1e-5)
    assert module[0].weight.is_contiguous(), "the user's module keeps its memory format"


def test_an_unknown_baseline_lists_the_known_ones() -> None:
    with pytest.raises(UserInputError, match="no baseline 'jit' on cpu") as caught:
        baseline.open_baseline("jit", network(), ("images",), "cpu")
    assert "channels-last" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch sees a CUDA device; tests/gpu covers it")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="sees no CUDA device"):
        baseline.open_baseline("eager", network(), ("images",), "cuda:0")
