"""What no engine should compute in 8 bits is found in the graph: masks, coordinates, rankings, recurrent layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_support import graph, node
from test_qdq_onnxruntime import IMAGE, run, weight

from edgeship.prepare.float_nodes import coordinate_nodes, float_nodes
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.masks import masked_tensors

UPPER = np.triu(np.ones((16, 16), bool), 1)
LOWEST = float(np.finfo(np.float32).min)


def masked(value: float, how: str) -> onnx.ModelProto:
    """Scores of a convolution, masked, through a Softmax into another convolution."""
    weights: dict[str, Any] = {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1)}
    if how == "added":
        weights["m"] = np.where(UPPER, value, 0).astype(np.float32)
        mask = [node("Add", "a m", "s")]
    elif how == "chosen":
        weights |= {"c": UPPER, "m": np.float32(value)}
        mask = [node("Where", "c m a", "s")]
    else:
        weights |= {"c": UPPER.astype(np.float32), "m": np.float32(value)}
        mask = [node("Mul", "c m", "p"), node("Add", "a p", "s")]
    nodes = [node("Conv", "x w", "a"), *mask, node("Softmax", "s", "b", axis=-1), node("Conv", "b v", "y")]
    return graph(nodes, weights, IMAGE, ["y"])


@pytest.mark.parametrize(
    ("value", "how"),
    [(-np.inf, "added"), (LOWEST, "added"), (-1e9, "added"), (-1e4, "added"), (-100.0, "added"), (-np.inf, "chosen"),
     (LOWEST, "chosen"), (-1e9, "multiplied"), (-65504.0, "multiplied")],
)  # fmt: skip
def test_attention_masks_are_left_out_of_the_ranges(value: float, how: str, tmp_path: Path) -> None:
    """The masked scores have no range; the products before and behind them are INT8."""
    model = masked(value, how)
    assert "s" in masked_tensors(infer(model))
    result, proto = run(model, tmp_path)
    assert result.output_snr_db["y"] > 25
    assert not result.in_float
    rounded = {item.input[0] for item in proto.graph.node if item.op_type == "QuantizeLinear"}
    assert "s" not in {name.removesuffix("_QuantizeLinear_Input") for name in rounded}


def test_large_constants_that_mask_nothing() -> None:
    """A bias of -60 without a Softmax behind it, and weights of any size, are values."""
    nodes = [node("Conv", "x w", "a"), node("Add", "a m", "s"), node("Relu", "s", "y")]
    model = graph(nodes, {"w": weight(8, 3, 1, 1, scale=1e9), "m": np.float32(-60)}, IMAGE, ["y"])
    assert masked_tensors(infer(model)) == set()


def test_coordinates_stay_in_float_back_to_the_layer_that_predicts_them(tmp_path: Path) -> None:
    ticks = np.linspace(-1, 1, 16, dtype=np.float32)
    base = np.stack(np.meshgrid(ticks, ticks), axis=-1)[None].astype(np.float32)
    nodes = [
        node("Conv", "x w", "o"), node("Tanh", "o", "t"), node("Mul", "t scale", "f"),
        node("Transpose", "f", "g", perm=[0, 2, 3, 1]), node("Add", "g base", "h"),
        node("Conv", "x v", "c"), node("GridSample", "c h", "y", align_corners=1),
    ]  # fmt: skip
    weights = {"w": weight(2, 3, 3, 3), "v": weight(8, 3, 1, 1), "base": base, "scale": np.float32(0.1)}
    nodes[0].attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
    model = graph(nodes, weights, IMAGE, ["y"])
    assert coordinate_nodes(infer(model)) == {"n_h", "n_g", "n_f", "n_t"}
    result, _ = run(model, tmp_path)
    assert result.output_snr_db["y"] > 25


def test_reasons_by_kind() -> None:
    nodes = [
        node("Flatten", "x", "f"), node("TopK", "f k", "t i"), node("Unsqueeze", "f one", "q"),
        node("GRU", "q w r", "h hn", hidden_size=4), node("Einsum", "f e", "y", equation="bi,io->bo"),
    ]  # fmt: skip
    weights = {
        "k": np.array([2]),
        "one": np.array([0]),
        "w": weight(1, 12, 768),
        "r": weight(1, 12, 4),
        "e": weight(768, 4),
    }
    found = float_nodes(infer(graph(nodes, weights, IMAGE, ["t", "h", "y"])))
    assert found["n_t"].startswith("a ranking")
    assert found["n_h"].startswith("recurrent")
    assert found["n_y"] == "Einsum has no quantized form"
