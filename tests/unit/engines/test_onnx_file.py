"""The reader of node names against the onnx package itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from small_onnx import convolutions, quantized

from edgeship.engines.onnx_file import read_inputs, read_nodes, weights_are_half
from edgeship.errors import ModelError
from edgeship.prepare.graph import inputs_of, outputs_of


def test_every_node_reads_as_onnx_reads_it(tmp_path: Path) -> None:
    path = quantized(convolutions(tmp_path / "plain.onnx"), tmp_path / "net.onnx")
    wanted = [(node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in onnx.load(path).graph.node]
    assert [(node.name, node.operator, node.inputs, node.outputs) for node in read_nodes(path)] == wanted


@pytest.mark.parametrize("cut", [1, 40, 1000, -1])
def test_a_cut_file_is_a_model_error(tmp_path: Path, cut: int) -> None:
    path = convolutions(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"is not a readable ONNX file|is empty"):
        read_nodes(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"not a model at all"])
def test_noise_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a readable ONNX file|is empty"):
        read_nodes(path)


def test_weights_are_half_when_every_product_has_fp16_weights(tmp_path: Path) -> None:
    path = convolutions(tmp_path / "single.onnx")
    assert not weights_are_half(path)
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype("float16"), item.name))
    onnx.save(model, tmp_path / "half.onnx")
    assert weights_are_half(tmp_path / "half.onnx")
    weighted = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    one = next(item for item in model.graph.initializer if item.name == weighted)
    one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype("float32"), one.name))
    onnx.save(model, tmp_path / "mixed.onnx")
    assert not weights_are_half(tmp_path / "mixed.onnx")


def value(name: str, dims: list[object], kind: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    made = onnx.helper.make_tensor_value_info(name, kind, [None if size in (-1, 0) else size for size in dims])
    for size, dim in zip(dims, made.type.tensor_type.shape.dim, strict=True):
        if size in (-1, 0):
            dim.dim_value = size
    return made


def saved(path: Path, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> Path:
    nodes = [onnx.helper.make_node("Identity", [inputs[0].name], [item.name]) for item in outputs]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs)), path)
    return path


def test_a_size_below_one_or_without_a_name_is_a_dynamic_axis(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", [value("x", [-1, 3, 0, None, "w"])], [value("y", [-1, 3, 0, None, "w"])])
    inputs, outputs = read_inputs(path)
    assert inputs[0].shape == outputs[0].shape == ("axis0", 3, "axis2", "axis3", "w")
    assert inputs_of(onnx.load(path)) == inputs
    assert outputs_of(onnx.load(path)) == outputs


def test_weights_among_the_inputs_are_not_inputs(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", [value("x", [2]), value("w", [2])], [value("y", [2])])
    model = onnx.load(path)
    model.graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(onnx.helper.make_tensor("w", 1, [2], [1, 2])), "w")
    )
    onnx.save(model, path)
    assert [info.name for info in read_inputs(path)[0]] == ["x"]


@pytest.mark.parametrize(
    ("made", "dtype"),
    [
        (onnx.helper.make_tensor_sequence_value_info("y", onnx.TensorProto.FLOAT, None), "sequence"),
        (
            onnx.helper.make_value_info(
                "y", onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(1, [2]))
            ),
            "optional",
        ),
        (value("y", [2], onnx.TensorProto.BFLOAT16), "bfloat16"),
        (value("y", [2], onnx.TensorProto.STRING), "str"),
        (value("y", [2], onnx.TensorProto.INT4), "int4"),
    ],
)
def test_both_readers_name_every_type_alike(tmp_path: Path, made: onnx.ValueInfoProto, dtype: str) -> None:
    path = saved(tmp_path / "net.onnx", [value("x", [2])], [made])
    assert read_inputs(path)[1][0].dtype == dtype
    assert outputs_of(onnx.load(path)) == read_inputs(path)[1]
