"""Logits or probabilities: read from the end of the graph."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeship.config import Evaluation
from edgeship.pipeline.head import with_scores


@pytest.mark.parametrize(
    ("operators", "task", "scores"),
    [
        (("Sigmoid",), "segmentation", "probabilities"),
        (("Sigmoid", "Identity"), "segmentation", "probabilities"),
        (("Relu",), "segmentation", "logits"),
        (("Sigmoid", "Neg"), "segmentation", "logits"),
        (("Softmax", "Identity"), "classification", "probabilities"),
        (("Sigmoid",), "classification", "auto"),
        (("Gemm", "Identity"), "classification", "logits"),
        (("Gemm", "Relu"), "classification", "auto"),
        (("Sigmoid",), "detection", "auto"),
    ],
)
def test_the_end_of_the_graph_tells(tmp_path, operators, task, scores):
    nodes = [helper.make_node(name, [f"t{n}"], [f"t{n + 1}"]) for n, name in enumerate(operators)]
    value = [helper.make_tensor_value_info(f"t{n}", TensorProto.FLOAT, [1, 1, 4, 4]) for n in (0, len(nodes))]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:])), path)
    assert with_scores(Evaluation(task=task), path).scores == scores
    own = Evaluation(task=task, scores="logits")
    assert with_scores(own, path).scores == "logits"


@pytest.mark.parametrize(
    ("operators", "values"),
    [
        (("Conv", "Sigmoid"), "raw"),
        (("Conv", "Exp", "Transpose"), "decoded"),
        (("Exp", "Conv", "Transpose"), "raw"),
        (("Conv", "Softmax", "Transpose"), "auto"),
    ],
)
def test_an_exponential_behind_the_last_weights_tells_decoded_boxes(
    tmp_path: Path, operators: tuple[str, ...], values: str
) -> None:
    nodes = [
        helper.make_node(name, [f"t{n}", *(["w"] if name == "Conv" else [])], [f"t{n + 1}"])
        for n, name in enumerate(operators)
    ]
    value = [helper.make_tensor_value_info(f"t{n}", TensorProto.FLOAT, None) for n in (0, len(nodes))]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], [weights])), tmp_path / "m.onnx")
    for decoder in (None, "yolox"):
        assert with_scores(Evaluation(task="detection", decoder=decoder), tmp_path / "m.onnx").box_values == values
    for own in ({"decoder": "nms"}, {"decoder": "yolox", "box_values": "raw"}, {"decoder": "yolox", "output": "other"}):
        told = Evaluation.model_validate({"task": "detection", **own})
        assert with_scores(told, tmp_path / "m.onnx") == told
