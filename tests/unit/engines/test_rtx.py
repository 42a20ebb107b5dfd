"""TensorRT-RTX as onnxruntime's plugin provider, without its package or a GPU: what is read, marked and refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import convolutions, quantized

from edgeship import engines
from edgeship.cli.bench import engine_of
from edgeship.config import Candidates, Target, takes_tensorrt_graphs
from edgeship.config_file import check
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.engines.onnx_file import with_metadata
from edgeship.engines.ort import plugin, rtx
from edgeship.errors import ArtifactError, ConfigError, DeviceError, MissingExtra, PrecisionError
from edgeship.pipeline.candidates import resolved_precision, style_of
from edgeship.results import Identity

TARGET = Target(engine="onnxruntime-rtx", device="cuda:0")


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The provider's package is not installed, whatever is installed here."""
    monkeypatch.setitem(sys.modules, plugin.MODULE, None)
    plugin.package.cache_clear()
    yield
    plugin.package.cache_clear()


def request_for(model: Path, precision: str = "fp16") -> BuildRequest:
    return BuildRequest(model, model.with_name("built.onnx"), precision, TARGET)


def test_without_the_package_one_sentence_names_the_extra(tmp_path: Path) -> None:
    model = convolutions(tmp_path / "net.onnx")
    found = rtx.probe()
    assert (found.available, found.devices) == (False, ())
    assert "onnxruntime-ep-nv-tensorrt-rtx" in found.reason
    for act in (lambda: rtx.build(request_for(model)), lambda: rtx.open(model, OpenOptions(device="cuda:0"))):
        with pytest.raises(MissingExtra, match="onnxruntime-ep-nv-tensorrt-rtx") as caught:
            act()
        assert caught.value.do == "pip install 'edgeship[onnxruntime-rtx]'"
    assert not request_for(model).output.exists()


def test_what_it_does_not_compute_is_refused(tmp_path: Path) -> None:
    model = convolutions(tmp_path / "net.onnx")
    with pytest.raises(PrecisionError, match="has no implicit: the types of the ONNX decide"):
        rtx.build(request_for(model, "implicit"))
    with pytest.raises(DeviceError, match="runs on a GPU, found device 'cpu'"):
        rtx.open(model, OpenOptions(device="cpu"))


def test_it_takes_graphs_of_tensorrts_style() -> None:
    assert takes_tensorrt_graphs("onnxruntime-rtx")
    assert not takes_tensorrt_graphs("onnxruntime")
    assert style_of(TARGET) == "tensorrt"
    assert resolved_precision("int8", TARGET) == "int8-fp16"


def test_a_config_may_name_it_and_must_name_a_gpu(tmp_path: Path) -> None:
    raw = {"model": {"source": "m:build", "inputs": {"x": {"shape": [1]}}}, "target": {"engine": "onnxruntime-rtx"}}
    raw["candidates"] = Candidates(precisions=("fp32",)).model_dump(include={"precisions"})
    raw["target"]["device"] = "cuda:0"
    assert check(raw, tmp_path / "edgeship.toml").target.engine == "onnxruntime-rtx"
    raw["target"]["device"] = "cpu"
    with pytest.raises(ConfigError, match="onnxruntime-rtx runs on a GPU, found 'cpu'"):
        check(raw, tmp_path / "edgeship.toml")


def test_precision_is_read_from_the_types_of_the_graph(tmp_path: Path) -> None:
    plain = convolutions(tmp_path / "net.onnx")
    assert {item.precision for item in rtx.declared(plain)} == {"fp32"}
    assert {item.precision for item in rtx.declared(quantized(plain, tmp_path / "int8.onnx"))} == {"int8"}
    half = onnx.load(plain)
    for tensor in half.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(half, tmp_path / "half.onnx")
    assert {item.precision for item in rtx.declared(tmp_path / "half.onnx")} == {"fp16"}
    assert {item.kind for item in rtx.declared(plain)} == {"Conv", "MatMul"}


def test_the_mark_names_the_engine_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    data = convolutions(tmp_path / "net.onnx").read_bytes()
    profile = {"images": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}
    (tmp_path / "built.onnx").write_bytes(with_metadata(data, rtx.KEY, json.dumps(profile)))
    assert engine_of(tmp_path / "built.onnx") == "onnxruntime-rtx"
    assert engine_of(tmp_path / "net.onnx") == "onnxruntime"
    assert rtx.marked((tmp_path / "built.onnx").read_bytes(), "built") == {
        "images": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    }
    for text in ("{", "[]", '{"images": [[1]]}', '{"images": 3}'):
        with pytest.raises(ArtifactError, match="the mark of the engine built"):
            rtx.marked(with_metadata(data, rtx.KEY, text), "built")


def test_an_engine_of_another_name_does_not_fit() -> None:
    other = Identity(engine="onnxruntime", version="1", device="cpu")
    assert rtx.misfits(other, "cuda:0") == ["built by onnxruntime, opened with onnxruntime-rtx"]
    assert engines.get("onnxruntime-rtx") is rtx
