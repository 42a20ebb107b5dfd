"""PyTorch on CUDA against ONNX on the CUDA provider, through parity itself: it passes, and it names what differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu_models import images
from onnx import numpy_helper

from edgeship.config import Model, Parity
from edgeship.errors import DeviceError, ParityError
from edgeship.prepare.export import export
from edgeship.prepare.parity import Request, parity, require
from edgeship.prepare.slim import slim

HERE = Path(__file__).parent
SETTINGS = Model.model_validate({"source": "gpu_networks:Small", "inputs": {"images": {"shape": ["batch", 3, 64, 64]}}})
CUDA0 = Parity(device="cuda:0")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export(SETTINGS, HERE, folder / "model.onnx")
    slim(folder / "model.onnx", folder / "slim.onnx")
    proto = onnx.load(folder / "slim.onnx")
    weight = next(item for item in proto.graph.initializer if item.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.5, weight.name))
    onnx.save(proto, folder / "changed.onnx")
    return folder


def request(folder: Path, name: str, settings: Model = SETTINGS, tolerances: Parity = CUDA0) -> Request:
    return Request(settings, HERE, folder / "model.onnx", folder / name, tolerances, [images(4)])


def test_equal_graphs_agree_on_the_gpu(graphs: Path) -> None:
    result = parity(request(graphs, "slim.onnx"))
    assert result.passed, result
    assert result.device == "cuda:0"
    assert not result.tf32
    assert (result.random_inputs, result.real_images) == (3, 4)
    assert result.outputs[0].max_abs < 1e-4, "TF32 is off on both sides"


def test_the_first_operator_that_differs_is_named_with_its_place(graphs: Path) -> None:
    result = parity(request(graphs, "changed.onnx"))
    assert not result.passed
    assert result.divergence is not None
    assert result.divergence.operator in ("Gemm", "MatMul")
    assert "head: Linear" in result.divergence.place
    with pytest.raises(ParityError, match=r"first operator that differs: .* gpu_networks\.py"):
        require(result)


def test_an_onnx_source_is_compared_on_the_gpu(graphs: Path) -> None:
    settings = Model(source=str(graphs / "model.onnx"))
    assert parity(request(graphs, "slim.onnx", settings)).passed
    result = parity(request(graphs, "changed.onnx", settings))
    assert not result.passed
    assert result.divergence is not None
    assert result.divergence.operator in ("Gemm", "MatMul")


def test_the_cpu_and_the_gpu_see_the_same_difference(graphs: Path) -> None:
    seen = [parity(request(graphs, "changed.onnx", tolerances=Parity(device=name))) for name in ("cuda:0", "cpu")]
    first, second = (result.outputs[0].max_abs for result in seen)
    np.testing.assert_allclose(first, second, rtol=1e-3)


def test_a_device_that_is_not_there(graphs: Path) -> None:
    with pytest.raises(DeviceError, match="no device 'cuda:99'"):
        parity(request(graphs, "slim.onnx", tolerances=Parity(device="cuda:99")))
