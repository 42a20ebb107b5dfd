"""FP16: special graphs keep their answers, and a collapse is seen on the CPU and names the nodes that prevent it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_support import graph, node
from onnx import helper
from test_qdq_onnxruntime import IMAGE, noise, weight

from edgeship.errors import QuantizeError
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.fp16_rescue import ranked
from edgeship.prepare.fp16_rounding import round_in_place
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.running import Running
from edgeship.prepare.sensitivity import RankOptions


def small_norm() -> onnx.ModelProto:
    """Features of 1e-5, divided by their length: FP16 flushes their squares to zero."""
    nodes = [
        node("Conv", "x w", "a"), node("Mul", "a tiny", "t"), node("Pow", "t two", "p"),
        node("ReduceSum", "p axis", "s", keepdims=1), node("Sqrt", "s", "l"), node("Div", "t l", "n"),
        node("Conv", "n v", "y"),
    ]  # fmt: skip
    weights: dict[str, Any] = {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1), "tiny": np.float32(1e-5)}
    weights |= {"two": np.float32(2), "axis": np.array([1])}
    return graph(nodes, weights, IMAGE, ["y"])


def test_a_collapse_names_the_nodes_that_prevent_it(tmp_path: Path) -> None:
    onnx.save(small_norm(), tmp_path / "m.onnx")
    with pytest.raises(QuantizeError) as refused:
        to_half(tmp_path / "m.onnx", noise(), tmp_path / "h.onnx")
    advice = str(refused.value.do)
    assert "edgeship quantize --precision fp16 --keep" in advice
    keep = tuple(word for word in advice.split() if word.startswith("n_"))
    assert 0 < len(keep) <= 4
    assert refused.value.rescue == keep
    result = to_half(tmp_path / "m.onnx", noise(), tmp_path / "h.onnx", keep)
    assert result.output_snr_db["y"] > 30
    assert result.kept == keep
    assert result.notes == ()


def test_a_bidirectional_lstm_is_compared_and_does_not_end_the_process(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a"), node("ReduceMean", "a axis", "m", keepdims=0),
        node("Transpose", "m", "s", perm=[2, 0, 1]),
        node("LSTM", "s lw lr", "h", hidden_size=12, direction="bidirectional"),
        node("Transpose", "h", "g", perm=[2, 0, 1, 3]), node("Reshape", "g shape", "f"), node("MatMul", "f v", "y"),
    ]  # fmt: skip
    weights = {"w": weight(8, 3, 1, 1), "axis": np.array([2]), "lw": weight(2, 48, 8), "lr": weight(2, 48, 12)}
    weights |= {"shape": np.array([0, 0, 24]), "v": weight(24, 3)}
    onnx.save(graph(nodes, weights, IMAGE, ["y"]), tmp_path / "m.onnx")
    result = to_half(tmp_path / "m.onnx", noise(), tmp_path / "h.onnx")
    assert result.output_snr_db["y"] > 40


def test_recurrent_layers_are_kept_by_their_operator(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a"), node("ReduceMean", "a axis", "m", keepdims=0),
        node("Transpose", "m", "s", perm=[2, 0, 1]), node("GRU", "s gw gr", "h", hidden_size=12),
        node("Transpose", "h", "g", perm=[2, 0, 1, 3]), node("Reshape", "g shape", "f"), node("MatMul", "f v", "y"),
    ]  # fmt: skip
    weights = {"w": weight(8, 3, 1, 1), "axis": np.array([2]), "gw": weight(1, 36, 8), "gr": weight(1, 36, 12)}
    weights |= {"shape": np.array([0, 0, 12]), "v": weight(12, 3)}
    onnx.save(graph(nodes, weights, IMAGE, ["y"]), tmp_path / "m.onnx")
    result = to_half(tmp_path / "m.onnx", noise(), tmp_path / "h.onnx", ("op:GRU",))
    assert result.kept == ("n_h",) and result.output_snr_db["y"] > 40
    made = onnx.load(tmp_path / "h.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    by_name = {item.name: item for item in made.graph.node}
    assert {kinds[name] for name in by_name["n_h"].input[1:3]} == {onnx.TensorProto.FLOAT}
    assert kinds[by_name["n_y"].input[1]] == onnx.TensorProto.FLOAT16


def test_an_input_in_float64_is_refused_in_our_words(tmp_path: Path) -> None:
    made = graph([node("Cast", "x", "f", to=1), node("Conv", "f w", "y")], {"w": weight(8, 3, 1, 1)}, IMAGE, ["y"])
    made.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(made, tmp_path / "m.onnx")
    frames = [(ids, {"x": feeds["x"].astype(np.float64)}) for ids, feeds in noise()]
    with pytest.raises(QuantizeError, match="input 'x' is float64, which TensorRT does not take"):
        to_half(tmp_path / "m.onnx", frames, tmp_path / "h.onnx")


def test_special_outputs_of_fp16(tmp_path: Path) -> None:
    """A constant, the input itself, and float64 behind the last layer keep their types and their order."""
    nodes = [node("Conv", "x w", "a"), node("Cast", "a", "d", to=11), node("Mul", "d two", "e")]
    weights = {"w": weight(8, 3, 1, 1), "two": np.float64(2), "anchors": weight(5, 4)}
    model = graph(nodes, weights, IMAGE, ["a"])
    for name, kind, shape in (("anchors", 1, [5, 4]), ("x", 1, IMAGE), ("e", 11, ["batch", 8, 16, 16])):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    onnx.save(model, tmp_path / "m.onnx")
    result = to_half(tmp_path / "m.onnx", noise(), tmp_path / "h.onnx")
    assert list(result.output_snr_db) == ["a", "anchors", "x", "e"]
    assert min(result.output_snr_db.values()) > 50
    kinds = [value.type.tensor_type.elem_type for value in onnx.load(tmp_path / "h.onnx").graph.output]
    assert kinds == [1, 1, 1, 11]


def test_fp16_refuses_what_is_not_float32_and_what_has_a_body(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    nodes = [
        node("Conv", "x w", "a"),
        node("If", "c", "i", then_branch=body, else_branch=body),
        node("Add", "a s", "y"),
    ]
    weights = {"w": weight(8, 3, 1, 1), "c": np.array(True), "s": np.float32(1)}
    onnx.save(graph(nodes, weights, IMAGE, ["y", "i"]), tmp_path / "if.onnx")
    with pytest.raises(QuantizeError, match="If 'n_i'"):
        to_half(tmp_path / "if.onnx", noise(), tmp_path / "h.onnx")


def test_sums_beyond_65504_stay_in_fp32_by_themselves(tmp_path: Path) -> None:
    """Features of a thousand divided by their root mean square: their squares overflow FP16."""
    nodes = [
        node("Conv", "x w", "a"), node("Mul", "a large", "t"), node("Pow", "t two", "p"),
        node("ReduceMean", "p axis", "s", keepdims=1), node("Sqrt", "s", "l"), node("Div", "t l", "n"),
        node("Conv", "n v", "y"),
    ]  # fmt: skip
    weights: dict[str, Any] = {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1), "large": np.float32(1e3)}
    weights |= {"two": np.float32(2), "axis": np.array([1])}
    onnx.save(graph(nodes, weights, IMAGE, ["y"]), tmp_path / "m.onnx")
    result = to_half(tmp_path / "m.onnx", noise(), tmp_path / "h.onnx")
    assert result.output_snr_db["y"] > 40
    assert {"n_p", "n_s"} <= set(result.left)
    assert "n_y" not in result.left
    assert result.rescue == ()


def scores_on_an_offset() -> onnx.ModelProto:
    """Scores below one on a common offset of 300, where FP16 has steps of a quarter, behind a softmax that is fine."""
    nodes = [
        node("Conv", "x w", "a"), node("Softmax", "a", "s", axis=1), node("Conv", "s v", "t"),
        node("Add", "t offset", "y"),
    ]  # fmt: skip
    return graph(nodes, {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1), "offset": np.float32(300)}, IMAGE, ["y"])


def test_all_nodes_are_ranked_in_the_order_whose_plans_are_nearer_to_fp32() -> None:
    options = RankOptions("fp16")
    by_damage = ranked(infer(scores_on_an_offset()), noise(), options)
    assert by_damage.style == "fp16"
    assert by_damage.groups[0].operator == "Add"
    first = ranked(infer(small_norm()), noise(), options)
    assert {"Pow", "ReduceSum", "Sqrt", "Div"} == {group.operator for group in first.groups[:4]}
    assert first.curve[-1][1] > first.plain_db == first.curve[0][1]
    kept = ranked(infer(small_norm()), noise(), RankOptions("fp16", keep=("n_p",)))
    assert "n_p" not in {name for group in kept.groups for name in group.nodes}


def test_a_rounded_graph_replaces_the_file_and_keeps_its_rounding_through_optimization(tmp_path: Path) -> None:
    onnx.save(scores_on_an_offset(), tmp_path / "m.onnx")
    (ids, feeds), *_ = noise()
    wanted = Running(tmp_path / "m.onnx").run(None, feeds)[0]
    to_half(tmp_path / "m.onnx", [(ids, feeds)], tmp_path / "h.onnx")
    made = round_in_place(tmp_path / "h.onnx")
    assert made.size_bytes == (tmp_path / "h.onnx").stat().st_size
    (found,) = ort.InferenceSession(tmp_path / "h.onnx", providers=["CPUExecutionProvider"]).run(None, feeds)
    assert found.dtype == np.float32
    assert np.array_equal(found * 4, np.round(found * 4))
    assert 0.05 < np.abs(found - wanted).max() <= 0.13
