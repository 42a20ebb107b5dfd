"""Parity: equal graphs pass; a changed one fails and its first operator is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeship.config import Model, Parity
from edgeship.errors import DeviceError, ModelError, ParityError
from edgeship.prepare.export import export
from edgeship.prepare.parity import Request, parity, require
from edgeship.prepare.slim import slim

HERE = Path(__file__).parent
SETTINGS = Model.model_validate(
    {
        "source": "networks:TwoInputs",
        "inputs": {"image": {"shape": ["batch", 3, 16, 16]}, "extra": {"shape": ["batch", 8]}},
    }
)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export(SETTINGS, HERE, folder / "model.onnx")
    slim(folder / "model.onnx", folder / "slim.onnx")
    return folder


def request(folder: Path, name: str, settings: Model = SETTINGS, **more: object) -> Request:
    return Request(settings, HERE, folder / "model.onnx", folder / name, Parity(), **more)  # type: ignore[arg-type]


def test_slim_keeps_names_and_metadata(graphs: Path) -> None:
    before, after = onnx.load(graphs / "model.onnx"), onnx.load(graphs / "slim.onnx")
    assert [item.name for item in after.graph.input] == [item.name for item in before.graph.input]
    assert [item.name for item in after.graph.output] == [item.name for item in before.graph.output]
    assert all(node.metadata_props for node in after.graph.node if node.op_type == "Conv")


def test_equal_graphs_agree_on_noise_and_on_frames(graphs: Path) -> None:
    frames = {
        "image": np.random.default_rng(3).uniform(-1, 1, (4, 3, 16, 16)).astype(np.float32),
        "extra": np.zeros((4, 8), np.float32),
    }
    result = parity(request(graphs, "slim.onnx", images=[frames]))
    assert result.passed
    assert result.divergence is None
    assert (result.random_inputs, result.real_images) == (3, 4)
    assert [item.name for item in result.outputs] == ["logits", "aux_0", "aux_1"]
    assert all(item.max_abs < 1e-5 for item in result.outputs)


def test_the_first_operator_that_differs_is_named_with_its_place(graphs: Path) -> None:
    proto = onnx.load(graphs / "slim.onnx")
    weight = next(item for item in proto.graph.initializer if item.name == "head.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.5, weight.name))
    onnx.save(proto, graphs / "changed.onnx")
    result = parity(request(graphs, "changed.onnx"))
    assert [item.passed for item in result.outputs] == [False, True, True]
    assert result.divergence is not None
    assert result.divergence.operator == "Gemm"
    assert "head: Linear" in result.divergence.place
    with pytest.raises(ParityError, match=r"first operator that differs: Gemm .* networks\.py"):
        require(result)


def test_an_onnx_source_is_compared_with_the_graph_before_editing(graphs: Path) -> None:
    settings = Model(source=str(graphs / "model.onnx"))
    assert parity(request(graphs, "slim.onnx", settings)).passed
    proto = onnx.load(graphs / "slim.onnx")
    bias = next(item for item in proto.graph.initializer if item.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(proto, graphs / "shifted.onnx")
    result = parity(request(graphs, "shifted.onnx", settings))
    assert result.divergence is not None
    assert result.divergence.operator == "Gemm"


def test_a_file_whose_batch_is_declared_as_zero_runs_with_any(graphs: Path) -> None:
    proto = onnx.load(graphs / "model.onnx")
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 0
    onnx.save(proto, graphs / "zero.onnx")
    assert parity(request(graphs, "slim.onnx", Model(source=str(graphs / "zero.onnx")))).passed


def test_nothing_falls_back_from_a_device_that_is_not_there(graphs: Path) -> None:
    with pytest.raises(DeviceError, match="CUDA"):
        parity(Request(SETTINGS, HERE, graphs / "model.onnx", graphs / "slim.onnx", Parity(device="cuda:7")))


def test_outputs_that_are_not_finite_are_refused(graphs: Path) -> None:
    frames = {"image": np.full((2, 3, 16, 16), np.nan, np.float32), "extra": np.zeros((2, 8), np.float32)}
    with pytest.raises(ModelError, match="NaN or infinite"):
        parity(request(graphs, "slim.onnx", images=[frames]))


def test_answers_that_depend_on_the_batch_are_named(tmp_path: Path) -> None:
    settings = Model.model_validate(
        {"source": "odd_networks:BatchStatistics", "inputs": {"x": {"shape": ["batch", 3, 16, 16]}}}
    )
    export(settings, HERE, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="depends on the rest of its batch") as caught:
        parity(request(tmp_path, "model.onnx", settings))
    assert "without running statistics: norm" in str(caught.value)
    assert "odd_networks.py" in str(caught.value)


def test_of_several_nodes_made_from_one_operator_the_last_is_compared(tmp_path: Path) -> None:
    settings = Model.model_validate({"source": "odd_networks:Gated", "inputs": {"x": {"shape": ["batch", 3, 16, 16]}}})
    export(settings, HERE, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    assert [node.op_type for node in proto.graph.node] == ["Conv", "Sigmoid", "Mul"]
    proto.graph.node[1].input[0] = "halved"
    proto.graph.node.insert(1, onnx.helper.make_node("Mul", [proto.graph.node[0].output[0], "half"], ["halved"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    onnx.save(proto, tmp_path / "changed.onnx")
    divergence = parity(request(tmp_path, "changed.onnx", settings)).divergence
    assert divergence is not None
    assert divergence.operator == "Mul"
