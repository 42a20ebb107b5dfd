"""Which joins no integer kernel reads, in graphs as deep as they come."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from calibration_support import graph, node

from edgeship.prepare.joined import find_joined
from edgeship.prepare.quantized_tensors import idle_joins

DEEP = 5000
IMAGE = ["batch", 3, 16, 16]


def moved(depth: int, last: onnx.NodeProto) -> onnx.ModelProto:
    """A join behind which so many Reshapes stand, then ``last``."""
    nodes = [node("Concat", "x x", "r0", axis=1)]
    nodes += [node("Reshape", f"r{number} shape", f"r{number + 1}") for number in range(depth)]
    return graph([*nodes, last], {"shape": np.array([0, 0, 0, 0])}, IMAGE, ["y"])


@pytest.mark.parametrize(("operator", "idle"), [("Conv", set()), ("Tanh", {"n_r0"})])
def test_a_join_is_read_through_thousands_of_moves(operator: str, idle: set[str]) -> None:
    model = moved(DEEP, node(operator, f"r{DEEP}", "y"))
    assert idle_joins(model, {"n_r0", "n_y"} if operator == "Conv" else {"n_r0"}) == idle


def test_joins_of_joins_are_all_idle_or_none() -> None:
    nodes = [node("Conv", "x w", "c0"), *(node("Concat", f"c{k} c{k}", f"c{k + 1}", axis=2) for k in range(60))]
    model = graph([*nodes, node("Identity", "c60", "y")], {}, IMAGE, ["y"])
    joins = {f"n_c{number}" for number in range(1, 61)}
    assert idle_joins(model, joins) == joins
    assert find_joined(model) == ()
    model.graph.node[-1].CopyFrom(node("Conv", "c60 w", "y"))
    assert idle_joins(model, joins | {"n_y"}) == set()
