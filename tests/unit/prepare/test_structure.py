"""What of a graph other weights leave as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeship.prepare.structure import structure_hash


def network(seed: int = 0) -> onnx.ModelProto:
    """Convolution, a bound, a product by a number, a reshape: weights from ``seed``, all else the same."""
    random = np.random.default_rng(seed)
    floats = {
        "kernel": random.standard_normal((4, 3, 3, 3)),
        "bias": random.standard_normal(4),
        "low": np.array(0.0),
        "high": np.array([6.0]).reshape(()),
        "number": np.array(0.5),
    }
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in floats.items()]
    constants.append(numpy_helper.from_array(np.array([0, -1]), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="clip"),
        helper.make_node("Mul", ["b", "number"], ["c"], name="mul"),
        helper.make_node("Reshape", ["c", "shape"], ["y"], name="reshape"),
    ]
    ends = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 256]),
    )
    graph = helper.make_graph(nodes, "network", [ends[0]], [ends[1]], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replace(name: str, value: object) -> Callable[[onnx.ModelProto], object]:
    return lambda model: constant(model, name).CopyFrom(numpy_helper.from_array(np.asarray(value), name))


CHANGES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "a bound": replace("high", np.float32(7)),
    "a number": replace("number", np.float32(0.25)),
    "a shape": replace("shape", np.array([0, 256])),
    "the weights' size": replace("bias", np.zeros(5, np.float32)),
    "the weights' type": replace("bias", np.zeros(4, np.float16)),
    "an attribute": lambda model: model.graph.node[0].attribute[0].ints.__setitem__(0, 2),
    "an operator": lambda model: setattr(model.graph.node[2], "op_type", "Add"),
    "a name": lambda model: setattr(model.graph.node[2], "name", "other"),
    "the opset": lambda model: setattr(model.opset_import[0], "version", 19),
    "a weight that another operator reads too": lambda model: model.graph.node.append(
        helper.make_node("Identity", ["bias"], ["z"])
    ),
}


def test_other_weights_leave_the_structure() -> None:
    one, other = network(0), network(1)
    assert constant(one, "kernel").raw_data != constant(other, "kernel").raw_data
    assert structure_hash(one) == structure_hash(other)
    assert constant(one, "kernel").raw_data, "the graph itself keeps its weights"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_no_weight_is_part_of_the_structure(change: Callable[[onnx.ModelProto], object]) -> None:
    made = network()
    change(made)
    assert structure_hash(made) != structure_hash(network())
