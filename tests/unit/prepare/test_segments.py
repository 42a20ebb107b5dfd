"""A graph in segments answers as the whole graph does, and a ranking is the same with and without them, to the bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from calibration_support import tiny
from onnx import TensorProto, helper, numpy_helper

from edgeship.prepare import calibration_cache, noise_meter
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.running import Running
from edgeship.prepare.segments import apart, cut, opened
from edgeship.prepare.sensitivity import RankOptions, rank


def through(parts: list[onnx.ModelProto], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    standing = dict(feeds)
    for segment in opened(parts):
        standing |= segment.run(standing)
    return standing


def frame(model: onnx.ModelProto, rows: int = 2) -> dict[str, np.ndarray]:
    value = model.graph.input[0]
    sizes = [rows, *(size.dim_value or 16 for size in list(value.type.tensor_type.shape.dim)[1:])]
    return {value.name: np.random.default_rng(0).random(sizes, np.float32)}


@pytest.mark.parametrize("kind", ["wide residual", "residual"])
def test_every_cut_of_a_residual_network_answers_as_the_whole(kind: str) -> None:
    model = infer(tiny(kind))
    feeds = frame(model)
    names = [value.name for value in model.graph.output]
    whole = Running(model, layout=True, threads=1).run(names, feeds)
    for place in range(len(model.graph.node) - 1):
        parts = cut(model, [place])
        assert [len(part.graph.node) for part in parts] == [place + 1, len(model.graph.node) - place - 1]
        answers = through(parts, feeds)
        for name, wanted in zip(names, whole, strict=True):  # a cut may part what onnxruntime fuses
            np.testing.assert_allclose(answers[name], wanted, rtol=1e-5, atol=1e-5)


def branched() -> onnx.ModelProto:
    """Two outputs, one of them early, and an If whose bodies read a tensor from far before it."""
    early = helper.make_tensor_value_info("early", TensorProto.FLOAT, ["n", 4])
    late = helper.make_tensor_value_info("late", TensorProto.FLOAT, ["n", 4])
    body = {
        name: helper.make_graph(
            [helper.make_node(operator, ["early", "x"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["n", 4])],
        )
        for name, operator in (("then_branch", "Add"), ("else_branch", "Mul"))
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["early"], "first"),
        helper.make_node("Neg", ["x"], ["middle"], "second"),
        helper.make_node("If", ["flag"], ["chosen"], "third", **body),
        helper.make_node("Add", ["chosen", "middle"], ["late"], "fourth"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(nodes, "branched", inputs, [early, late])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("flag", [True, False])
def test_what_a_body_reads_from_outside_and_an_early_output_reach_the_end(flag: bool) -> None:
    model = branched()
    feeds = {"x": np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32), "flag": np.array(flag)}
    wanted = Running(model, threads=1).run(["early", "late"], feeds)
    parts = cut(model, [0, 1, 2])
    assert [{value.name for value in part.graph.input} for part in parts] == [
        {"x"}, {"x"}, {"early", "flag", "x"}, {"chosen", "middle"},
    ]  # fmt: skip
    answers = through(parts, feeds)
    for name, value in zip(("early", "late"), wanted, strict=True):
        np.testing.assert_array_equal(answers[name], value)


def test_a_graph_whose_types_are_not_known_stays_whole() -> None:
    model = branched()
    del model.graph.value_info[:]
    assert cut(model, [1]) == [model]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> calibration_cache.CalibrationCache:
    folder = tmp_path_factory.mktemp("segments")
    model = tiny("wide residual")
    onnx.save(model, folder / "model.onnx")
    frames = Batches([((f"{number}",), frame(model, 1)) for number in range(2)])
    calibrate(folder / "model.onnx", frames, folder / "c.cache", CalibrateOptions(method="minmax", placement=False))
    return calibration_cache.load(folder / "c.cache", calibration_cache.Expected())


@pytest.mark.parametrize("style", ["fp16", "onnxruntime", "tensorrt"])
def test_a_ranking_is_the_same_in_one_piece_in_eight_and_without_memory(
    style: str, calibrated: calibration_cache.CalibrationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("wide residual")
    frames = [((f"{number}",), frame(model, 1)) for number in range(2)]
    found = []
    for pieces, room in ((1, noise_meter.KEPT_BYTES), (8, noise_meter.KEPT_BYTES), (8, 0)):
        monkeypatch.setattr(noise_meter, "PIECES", pieces)
        monkeypatch.setattr(noise_meter, "KEPT_BYTES", room)
        options = RankOptions(style=style, frames=2, workers=1)  # type: ignore[arg-type]
        ranked = rank(model, None if style == "fp16" else calibrated, frames, options)
        found.append((ranked.groups, ranked.curve))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) > 1


def test_a_graph_that_gives_a_constant_or_an_input_answers_as_the_whole() -> None:
    model = branched()
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]))
    feeds = {"x": np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32), "flag": np.array(True)}
    np.testing.assert_array_equal(through(cut(model, [0, 2]), feeds)["x"], feeds["x"])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "fixed"))
    model.graph.output.append(helper.make_tensor_value_info("fixed", TensorProto.FLOAT, [3]))
    assert cut(model, [0, 2]) == [model]


def test_a_graph_is_cut_only_where_nothing_that_is_fused_is_parted() -> None:
    model = branched()
    assert apart(model) == [True, False, False, True]
    model.graph.node[3].input[1] = "early"
    assert apart(model) == [False, False, False, True]
