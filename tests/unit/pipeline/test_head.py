"""Logits or probabilities: read from the end of the graph."""

from __future__ import annotations

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
    assert with_scores(own, path) == own
