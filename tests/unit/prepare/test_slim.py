"""Graphs from elsewhere through slim: brought to opset 18 with true shapes, or refused with the cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from strange import FLOAT, SIDE, convolution, image, model, node, numbers, reshaped, saved, value, weight

from edgeship.errors import ModelError
from edgeship.prepare.graph import inputs_of, opset_of, outputs_of
from edgeship.prepare.inputs import Known
from edgeship.prepare.running import Running
from edgeship.prepare.slim import Options, slim
from edgeship.results import Slimmed

W = weight("w", 4, 3, 3, 3)


def slimmed(made: onnx.ModelProto, tmp_path: Path, options: Options | None = None) -> tuple[Slimmed, onnx.ModelProto]:
    result = slim(saved(made, tmp_path / "in.onnx"), tmp_path / "out.onnx", options or Options())
    return result, onnx.load(tmp_path / "out.onnx")


def same_answers(one: onnx.ModelProto, other: onnx.ModelProto, rows: int = 3, side: int = SIDE) -> None:
    x = np.random.default_rng(5).standard_normal((rows, 3, side, side)).astype(np.float32)
    names = [info.name for info in outputs_of(one)]
    for a, b in zip(Running(one).run(names, {"x": x}), Running(other).run(names, {"x": x}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_an_old_graph_is_converted_and_said_to_be(tmp_path: Path) -> None:
    old = model(
        [convolution(target="a"), node("Upsample", ["a", "s"], ["y"], mode="nearest", name="up")],
        [W, numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")],
        outputs=[value("y", FLOAT, ["batch", 4, 2 * SIDE, 2 * SIDE])],
        opset=9,
        ir=3,
    )
    old.graph.input.extend(value(item.name, item.data_type, list(item.dims)) for item in old.graph.initializer)
    result, made = slimmed(old, tmp_path)
    assert opset_of(made) == 18
    assert [info.name for info in inputs_of(made)] == ["x"]
    assert any("converted from opset 9 to 18" in note for note in result.notes)
    assert any("2 weights were listed as inputs" in note for note in result.notes)
    same_answers(old, made)


def test_an_operator_that_cannot_be_converted_names_the_opset(tmp_path: Path) -> None:
    old = model([node("Upsample", ["x"], ["y"], name="up", height_scale=2.0, width_scale=2.0)], opset=1, ir=3)
    with pytest.raises(ModelError, match="opset 1"):
        slimmed(old, tmp_path)


@pytest.mark.parametrize("shape", [["batch", 4, 7, 7], ["batch", 4]])
def test_declared_shapes_that_are_wrong_are_dropped(tmp_path: Path, shape: list[int | str]) -> None:
    wrong = model([convolution(target="a"), node("Relu", ["a"], ["y"], name="relu")], [W])
    wrong.graph.value_info.append(value("a", FLOAT, shape))
    wrong.graph.output[0].CopyFrom(value("y", FLOAT, shape))
    result, made = slimmed(wrong, tmp_path)
    assert any("contradict the operators were dropped: a, y" in note for note in result.notes)
    assert outputs_of(made)[0].shape == ("batch", 4, SIDE, SIDE)


def test_a_declared_size_that_only_a_run_contradicts_is_dropped(tmp_path: Path) -> None:
    wrong = model(
        [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["r"]), node("NonZero", ["r"], ["y"], name="rows")],
        outputs=[value("y", TensorProto.INT64, [4, 7])],
    )
    result, made = slimmed(wrong, tmp_path)
    assert "declared shapes of outputs that a run contradicts were dropped: y" in result.notes
    assert outputs_of(made)[0].shape == (4, "axis1")


def test_an_output_without_a_shape_gets_one(tmp_path: Path) -> None:
    bare = model([convolution()], [W], outputs=[value("y", FLOAT, None)])
    assert slimmed(bare, tmp_path)[0].outputs[0].shape == ("batch", 4, SIDE, SIDE)


def test_an_input_that_nothing_reads_and_outputs_that_nothing_computes_stay(tmp_path: Path) -> None:
    outputs = [value("y", FLOAT, ["batch", 4, SIDE, SIDE]), value("anchors", FLOAT, [5, 4]), image()]
    made = model(
        [convolution()],
        [W, weight("anchors", 5, 4)],
        inputs=[image(), value("meta", FLOAT, ["batch", 2])],
        outputs=outputs,
    )
    result, _ = slimmed(made, tmp_path)
    assert [info.name for info in result.inputs] == ["x", "meta"]
    assert [info.name for info in result.outputs] == ["y", "anchors", "x"]
    assert result.max_difference == 0.0


def test_dynamic_sizes_are_tried_until_one_fits(tmp_path: Path) -> None:
    down = {"strides": [2, 2], "kernel_shape": [2, 2]}
    free = model(
        [
            node("Conv", ["x", "w1"], ["a"], name="down", **down),
            node("Conv", ["a", "w2"], ["b"], name="down2", **down),
            node("Resize", ["b", "", "s"], ["c"], mode="nearest", name="up"),
            node("Concat", ["a", "c"], ["y"], axis=1, name="cat"),
        ],
        [
            weight("w1", 4, 3, 2, 2),
            weight("w2", 4, 4, 2, 2),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s"),
        ],
        inputs=[image("batch", 3, "h", "w")],
        outputs=[value("y", FLOAT, ["batch", 8, "h2", "w2"])],
    )
    result, made = slimmed(free, tmp_path)
    assert result.inputs[0].shape == ("batch", 3, "h", "w")
    same_answers(free, made, side=32)


@pytest.mark.parametrize(
    ("old", "order"), [(False, None), pytest.param(True, None, marks=pytest.mark.slow), (False, [0, 3, 1, 2])]
)
def test_channels_that_are_declared_dynamic_are_those_that_the_convolution_takes(
    old: bool, order: list[int] | None, tmp_path: Path
) -> None:
    """Also where axes beside them are dynamic, of which one size after the other is tried."""
    shape = ["n", "h", "w", "c"] if order else ["n", "c", "h", "w"]
    first = node("Transpose", ["x"], ["t"], perm=order) if order else node("Identity", ["x"], ["t"])
    made = model(
        [first, convolution("t")],
        [W],
        inputs=[image(*shape)],
        outputs=[value("y", FLOAT, ["n", 4, "h", "w"])],
        opset=12 if old else 18,
    )
    result, _ = slimmed(made, tmp_path)
    assert result.inputs[0].shape == tuple(3 if axis == "c" else axis for axis in shape)
    assert result.notes[0] == "input 'x' has 3 channels, which Conv 'conv_y' takes"


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (
            [node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"]), node("Conv", ["a", "w"], ["y"])],
            "in a circle",
        ),
        ([node("Conv", ["x"], ["y"])], "Conv"),
        ([node("Cast", [], ["a"], to=1), node("Conv", ["a", "w"], ["y"])], "Cast"),
        ([node("Transpose", ["x"], ["a"], perm=[0, -9, 2, 3]), node("Conv", ["a", "w"], ["y"])], "Transpose"),
    ],
)
def test_channels_are_not_looked_for_in_a_graph_that_cannot_run(
    before: list[onnx.NodeProto], words: str, tmp_path: Path
) -> None:
    """Nodes in a circle, and operators without what they read, are named as ever."""
    made = model(before, [W], inputs=[image("n", "c", "h", "w")], outputs=[value("y", FLOAT, ["n", 4, "h", "w"])])
    with pytest.raises(ModelError, match=words):
        slimmed(made, tmp_path)


@pytest.mark.slow
def test_a_size_that_is_known_is_the_one_that_runs(tmp_path: Path) -> None:
    picky = model(
        [convolution(target="a"), node("Reshape", ["a", "s"], ["y"], name="fixed")],
        [W, numbers("s", -1, 4, 20 * 24)],
        inputs=[image("batch", 3, "h", "w")],
        outputs=[value("y", FLOAT, ["batch", 4, 480])],
    )
    with pytest.raises(ModelError, match="Reshape 'fixed'"):
        slimmed(picky, tmp_path)
    result, _ = slimmed(picky, tmp_path, Options(Known(shapes={"x": (1, 3, 20, 24)})))
    assert result.max_difference == 0.0


def test_a_batch_that_is_held_inside_is_located_and_can_be_freed(tmp_path: Path) -> None:
    held = reshaped((1, -1), (1, 4, SIDE, SIDE))
    with pytest.raises(ModelError, match="runs with a batch of 1 alone: Reshape 'r1'") as caught:
        slimmed(held, tmp_path)
    assert "--free-batch" in str(caught.value)
    assert "2 Reshapes" in str(caught.value)
    result, made = slimmed(held, tmp_path, Options(free_batch=True))
    assert "2 Reshapes held a batch of 1" in " ".join(result.notes)
    assert outputs_of(made)[0].shape[0] == "batch"
    same_answers(model([convolution(target="a"), node("Relu", ["a"], ["y"])], [W]), made, rows=5)


def test_a_batch_that_no_reshape_can_free_is_not_offered(tmp_path: Path) -> None:
    held = model(
        [
            convolution(target="a"),
            node("Split", ["a", "two"], ["b", "c"], axis=0, name="halves"),
            node("Add", ["b", "c"], ["y"], name="sum"),
        ],
        [W, numbers("two", 1, 1)],
        outputs=[value("y", FLOAT, [1, 4, SIDE, SIDE])],
    )
    with pytest.raises(ModelError, match="runs with a batch of 2 alone: Split 'halves'") as caught:
        slimmed(held, tmp_path)
    assert "--free-batch" not in str(caught.value)


def test_frames_that_meet_in_one_answer_are_located(tmp_path: Path) -> None:
    met = model(
        [convolution(target="a"), node("ReduceMean", ["a", "axes"], ["y"], keepdims=1, name="mean")],
        [W, numbers("axes", 0)],
        outputs=[value("y", FLOAT, [1, 4, SIDE, SIDE])],
    )
    with pytest.raises(ModelError, match="the frames meet in ReduceMean 'mean'"):
        slimmed(met, tmp_path)


def test_a_parameter_is_never_fed_noise(tmp_path: Path) -> None:
    asked = model(
        [
            convolution(target="a"),
            node("Cast", ["k"], ["k64"], to=TensorProto.INT64),
            node("Slice", ["a", "k64", "e"], ["y"], name="cut"),
        ],
        [W, numbers("e", 1000)],
        inputs=[image(), value("k", TensorProto.INT32, [1])],
        outputs=[value("y", FLOAT, ["rows", 4, SIDE, SIDE])],
    )
    with pytest.raises(ModelError, match="'k' is the starts of Slice 'cut'"):
        slimmed(asked, tmp_path)
    feeds = {"x": np.ones((3, 3, SIDE, SIDE), np.float32), "k": np.array([1], np.int32)}
    assert slimmed(asked, tmp_path, Options(Known(feeds=feeds)))[0].max_difference == 0.0
    assert slimmed(asked, tmp_path, Options(Known(bounds={"k": (0, 0)})))[0].max_difference == 0.0


def test_nodes_out_of_order_or_of_one_name_are_put_right(tmp_path: Path) -> None:
    made = model(
        [node("Neg", ["r"], ["y"], name="n"), node("Relu", ["c"], ["r"], name="n"), convolution(target="c")], [W]
    )
    result, after = slimmed(made, tmp_path)
    assert [operator.op_type for operator in after.graph.node] == ["Conv", "Relu", "Neg"]
    assert len({operator.name for operator in after.graph.node}) == 3
    assert any("shared the name" in note for note in result.notes)
    assert any("not in the order" in note for note in result.notes)
    x = np.random.default_rng(5).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    straight = model([convolution(target="c"), node("Relu", ["c"], ["r"]), node("Neg", ["r"], ["y"])], [W])
    np.testing.assert_allclose(
        Running(after).run(["y"], {"x": x})[0], Running(straight).run(["y"], {"x": x})[0], rtol=1e-5, atol=1e-5
    )


def test_axes_of_zero_are_dynamic(tmp_path: Path) -> None:
    made = model([convolution()], [W], inputs=[image(0, 3, -1, 0)], outputs=[value("y", FLOAT, [0, 4, -1, 0])])
    _, after = slimmed(made, tmp_path)
    named = model([convolution()], [W], inputs=[image("n", 3, "h", "w")], outputs=[value("y", FLOAT, None)])
    same_answers(after, named, side=32)


def test_a_graph_of_other_domains_alone_needs_no_conversion(tmp_path: Path) -> None:
    made = model([node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])])
    made.opset_import[0].CopyFrom(helper.make_opsetid("ai.onnx.ml", 3))
    made.graph.input[0].CopyFrom(value("x", FLOAT, ["batch", 3]))
    made.graph.output[0].CopyFrom(value("y", FLOAT, ["batch", 3]))
    _, after = slimmed(made, tmp_path)
    assert Running(after).run(["y"], {"x": np.full((2, 3), 4, np.float32)})[0].tolist() == [[6.0] * 3] * 2


def test_local_functions_are_written_out(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    function = helper.make_function("mine", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    made = model([convolution(target="c"), node("Block", ["c"], ["y"], domain="mine", name="block")], [W])
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("mine", 1))
    result, after = slimmed(made, tmp_path)
    assert "local functions were written out: Block" in result.notes
    assert not after.functions
    same_answers(made, after)


def recursive() -> onnx.ModelProto:
    """A graph with a local function that calls itself."""
    block = helper.make_node("Block", ["a"], ["b"], domain="mine")
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    made = model([node("Block", ["x"], ["y"], domain="mine")])
    made.functions.append(helper.make_function("mine", "Block", ["a"], ["b"], [block], imports))
    made.opset_import.append(imports[1])
    return made


def sparse() -> onnx.ModelProto:
    """A graph whose weights are a sparse tensor."""
    made = model([node("MatMul", ["x", "w"], ["y"])])
    values = helper.make_tensor("w", FLOAT, [1], [2.0])
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [3]), [SIDE, SIDE])
    )
    return made


def and_opset(made: onnx.ModelProto, version: int | None) -> onnx.ModelProto:
    """The model with one more version of the standard operators, or with none."""
    if version is None:
        del made.opset_import[:]
    else:
        made.opset_import.append(helper.make_opsetid("", version))
    return made


def and_domain(made: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators of somebody's own."""
    made.opset_import.append(helper.make_opsetid("com.acme", 1))
    return made


OPTIONAL = helper.make_value_info("o", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [1])))
REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "random": (
        model([node("RandomNormalLike", ["x"], ["n"], name="noise"), node("Add", ["x", "n"], ["y"])]),
        "draws random numbers .RandomNormalLike 'noise'",
    ),
    "sequence": (
        model(
            [node("SplitToSequence", ["x", "n"], ["y"], axis=1)],
            [numbers("n", 1)],
            outputs=[helper.make_tensor_sequence_value_info("y", FLOAT, None)],
        ),
        "output 'y' is a sequence",
    ),
    "bfloat16": (
        model([node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)], outputs=[value("y", TensorProto.BFLOAT16, None)]),
        "output 'y' is of type bfloat16",
    ),
    "future": (model([node("Relu", ["x"], ["y"])], opset=99), "has opset 99"),
    "cycle": (
        model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]),
        "not a valid ONNX graph",
    ),
    "output twice": (model([convolution()], [W], outputs=[value("y", FLOAT, None)] * 2), "'y' is listed 2 times"),
    "several opsets": (and_opset(model([convolution()], [W]), 11), "of several opsets: 11, 18"),
    "no opset": (and_opset(model([convolution()], [W]), None), "does not say which opset"),
    "no shape": (
        model([convolution()], [W], inputs=[value("x", FLOAT, None)]),
        "input 'x' declares no shape",
    ),
    "recursive function": (recursive(), "local functions Block call one another"),
    "sparse weights": (sparse(), "'w' are stored as a sparse tensor"),
    "twice": (model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])]), "not a valid ONNX graph"),
    "nan": (
        model([convolution()], [numpy_helper.from_array(np.full((4, 3, 3, 3), np.nan, np.float32), "w")]),
        "'w' hold NaN in 108 of 108",
    ),
    "huge": (
        model([node("Relu", ["x"], ["y"])], inputs=[image(1, 3, 10**6, 10**6)], outputs=[value("y", FLOAT, None)]),
        "takes 11,176 GiB",
    ),
    "custom operator": (
        and_domain(model([convolution(target="a"), node("Own", ["a"], ["y"], domain="com.acme")], [W])),
        "does not know the operator Own of com.acme",
    ),
    "no type": (model([convolution()], [W], inputs=[onnx.ValueInfoProto(name="x")]), "input 'x' declares no type"),
    "optional": (
        model([convolution()], [W], inputs=[image(), OPTIONAL]),
        "input 'o' is an optional",
    ),
    "unknown operator": (model([node("Frobnicate", ["x"], ["y"])]), "Frobnicate"),
    "short weights": (
        model([convolution()], [TensorProto(name="w", dims=[4, 3, 3, 3], data_type=1, raw_data=b"1234")]),
        "'w'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_cannot_go_on_is_refused_with_its_cause(name: str, tmp_path: Path) -> None:
    made, words = REFUSED[name]
    with pytest.raises(ModelError, match=words):
        slimmed(made, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x04rest", "Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"just some text, not a model\n", "truncated or not an ONNX file|holds no graph"),
    ],
)
def test_another_kind_of_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        slim(path, tmp_path / "out.onnx")


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        slim(tmp_path, tmp_path / "out.onnx")
