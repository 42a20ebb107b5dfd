"""Tests that need an NVIDIA GPU; `make gpu-test` runs them. Elsewhere they skip, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeship.engines import cuda
from edgeship.errors import EdgeshipError

HERE = Path(__file__).parent


def _missing() -> str:
    try:
        cuda.device_count()
    except EdgeshipError as error:
        return error.found
    return ""


def pytest_collection_modifyitems(items) -> None:
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    reason = _missing() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def fp32(tmp_path_factory) -> Path:
    """Convolutions and a product in FP32: images [batch, 3, 64, 64] → logits [batch, 10]."""
    from gpu_models import convolutions

    return convolutions(tmp_path_factory.mktemp("fp32") / "net.onnx")


@pytest.fixture(scope="session")
def fp16(tmp_path_factory) -> Path:
    """The same in FP16, inputs and outputs included."""
    from gpu_models import convolutions

    return convolutions(tmp_path_factory.mktemp("fp16") / "net.onnx", half=True)


@pytest.fixture(scope="session")
def answers(fp32) -> np.ndarray:
    """What onnxruntime's CPU provider says of four images, as the truth to compare with."""
    import onnxruntime
    from gpu_models import images

    return onnxruntime.InferenceSession(str(fp32), providers=["CPUExecutionProvider"]).run(None, images(4))[0]


@pytest.fixture
def stream():
    """A stream of the first device."""
    cuda.use("cuda:0")
    made = cuda.Stream()
    yield made
    made.close()
