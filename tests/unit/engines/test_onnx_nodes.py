"""The reader of node names against the onnx package itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from small_onnx import convolutions, quantized

from edgeship.engines._onnx_nodes import read_nodes
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
