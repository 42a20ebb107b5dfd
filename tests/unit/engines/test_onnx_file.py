"""The reader of node names against the onnx package itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from small_onnx import convolutions, quantized

from edgeship.engines.onnx_file import read_nodes, weights_are_half
from edgeship.errors import ModelError


def test_every_node_reads_as_onnx_reads_it(tmp_path: Path) -> None:
    path = quantized(convolutions(tmp_path / "plain.onnx"), tmp_path / "net.onnx")
    wanted = [(node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in onnx.load(path).graph.node]
    assert [(node.name, node.operator, node.inputs, node.outputs) for node in read_nodes(path)] == wanted


@pytest.mark.parametrize("cut", [1, 40, 1000, -1])
def test_a_cut_file_is_a_model_error(tmp_path: Path, cut: int) -> None:
    path = convolutions(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="is not a readable ONNX file"):
        read_nodes(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"not a model at all"])
def test_noise_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not a readable ONNX file"):
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
