"""TensorRT-RTX where a GPU is: an engine that runs, or the refusal of a card that it does not support."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeship import engines
from edgeship.config import Batch, Target
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.errors import DeviceError, EngineMismatch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "engines"))

pytestmark = pytest.mark.gpu
RTX = engines.get("tensorrt-rtx")


def test_it_runs_or_says_why_not(tmp_path: Path) -> None:
    from small_onnx import convolutions

    model = convolutions(tmp_path / "model.onnx")
    target = Target(engine="tensorrt-rtx", device="cuda:0", batch=Batch(min=1, opt=2, max=4))
    request = BuildRequest(model, tmp_path / "x.engine", "fp32", target)
    done = RTX.build(request)
    differences = RTX.misfits(done.identity, "cuda:0")
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    if differences:
        assert not done.runnable
        with pytest.raises(EngineMismatch) as caught:
            RTX.open(request.output, OpenOptions(device="cuda:0"))
        assert "the library says" in str(caught.value)
        return
    with RTX.open(request.output, OpenOptions(device="cuda:0", cuda_graph=True)) as runner:
        found = runner.infer({"images": images})["logits"]
    with engines.get("onnxruntime").open(model, OpenOptions()) as reference:
        wanted = reference.infer({"images": images})["logits"]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    from small_onnx import convolutions

    model = convolutions(tmp_path / "model.onnx", batch=1)
    request = BuildRequest(model, tmp_path / "x.engine", "fp32", Target(engine="tensorrt-rtx", device="cuda:0"))
    RTX.build(request)
    with pytest.raises(DeviceError, match="there is no device 'cuda:99' here"):
        RTX.open(request.output, OpenOptions(device="cuda:99"))
