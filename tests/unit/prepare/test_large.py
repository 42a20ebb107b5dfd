"""Graphs beyond protobuf's limit, which is lowered here: a real one has more than 2 GiB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from strange import FLOAT, SIDE, convolution, image, model, node, reshaped, value, weight

from edgeship.errors import ModelError, QuantizeError
from edgeship.prepare import calibration_cache, graph, large, modelopt
from edgeship.prepare.batch import FrozenBatch
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.quantize import QuantizeOptions, quantize
from edgeship.prepare.running import Running
from edgeship.prepare.slim import Options, slim
from processes import python

FEEDS = {"x": np.random.default_rng(3).standard_normal((4, 3, 16, 16)).astype(np.float32)}
LIMIT = 4096


@pytest.fixture(autouse=True)
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "PROTOBUF_LIMIT", LIMIT)


def net() -> onnx.ModelProto:
    """Two convolutions of 1.7 and 18 KiB of weights, the larger one as typed values, not as raw bytes."""
    wide = weight("v", 32, 16, 3, 3)
    typed = helper.make_tensor("v", FLOAT, wide.dims, numpy_helper.to_array(wide).ravel())
    return model(
        [convolution(target="a"), node("Relu", ["a"], ["r"], name="relu"), convolution("r", "y", "v")],
        [weight("w", 16, 3, 3, 3), typed],
        inputs=[image()],
        outputs=[value("y", FLOAT, ["batch", 32, 16, 16])],
    )


def test_weights_are_counted_in_every_form() -> None:
    assert large.weight_bytes(net()) == 4 * (16 * 3 * 9 + 32 * 16 * 9)
    text = onnx.TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[b"word"])
    assert large.tensor_bytes(text) == 0
    wholes = helper.make_tensor("i", TensorProto.INT64, [3], [1, 2, 3])
    assert large.tensor_bytes(wholes) == 24


def test_writing_leaves_the_graph_as_it_is_and_the_file_holds_the_same(tmp_path: Path) -> None:
    made = net()
    before = made.SerializeToString(deterministic=True)
    graph.save_onnx(made, tmp_path / "m.onnx")
    assert made.SerializeToString(deterministic=True) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 2048
    read = graph.load_onnx(tmp_path / "m.onnx")
    for one, other in zip(made.graph.initializer, read.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    np.testing.assert_array_equal(Running(read).run(["y"], FEEDS)[0], Running(tmp_path / "m.onnx").run(["y"], FEEDS)[0])


def test_other_weights_make_another_graph_file(tmp_path: Path) -> None:
    """What comes after knows a graph by its file's hash."""
    made = net()
    graph.save_onnx(made, tmp_path / "m.onnx")
    first = (tmp_path / "m.onnx").read_bytes()
    large = max(made.graph.initializer, key=lambda tensor: tensor.ByteSize())
    large.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(large) * 2, large.name))
    graph.save_onnx(made, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() != first


def test_it_is_checked_without_its_weights() -> None:
    made = net()
    graph.check_onnx(made, "the graph")
    made.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(ModelError, match="Frobnicate"):
        graph.check_onnx(made, "the graph")


def test_local_functions_are_written_out_without_its_weights() -> None:
    made = net()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    made.functions.append(helper.make_function("mine", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    made.opset_import.append(helper.make_opsetid("mine", 1))
    made.graph.node[1].op_type, made.graph.node[1].domain = "Act", "mine"
    done = large.inlined(made)
    assert not done.functions
    np.testing.assert_array_equal(Running(done).run(["y"], FEEDS)[0], Running(net()).run(["y"], FEEDS)[0])


def test_an_old_one_that_onnx_cannot_convert_is_refused(tmp_path: Path) -> None:
    made = net()
    made.opset_import[0].version = 11
    graph.save_onnx(made, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="opset 11 in a graph of more than 2 GiB"):
        slim(tmp_path / "old.onnx", tmp_path / "out.onnx")


def test_slim_calibrate_and_quantize_take_it(tmp_path: Path) -> None:
    whole, slimmed, cache = (tmp_path / name for name in ("in.onnx", "slim.onnx", "c.cache"))
    graph.save_onnx(net(), whole)
    slim(whole, slimmed)
    assert (tmp_path / "slim.onnx.data").is_file()
    batch = (tuple("abcd"), FEEDS)
    calibrate(slimmed, Batches([batch]), cache, CalibrateOptions(method="minmax"))
    expected = calibration_cache.Expected(graph_sha256=calibration_cache.graph_hash(graph.load_onnx(slimmed)))
    done = quantize(
        slimmed,
        calibration_cache.load(cache, expected),
        tmp_path / "int8.onnx",
        [batch],
        QuantizeOptions("onnxruntime", "int8"),
    )
    assert done.quantized_nodes
    assert done.output_snr_db["y"] > 20
    assert (tmp_path / "int8.onnx.data").is_file()


def normalized() -> onnx.ModelProto:
    """A convolution and a batch normalization, which onnxslim folds into it; the same network otherwise."""
    made = net()
    values = {"s": 2, "b": 1, "m": 3, "v": 4}
    scales = [numpy_helper.from_array(np.full(16, each, np.float32), name) for name, each in values.items()]
    made.graph.initializer.extend(scales)
    made.graph.node[1].input[0] = "n"
    made.graph.node.insert(1, node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"], name="norm"))
    made.graph.initializer[1].name = made.graph.node[3].input[1] = "wide"
    return made


def test_weights_that_slim_folds_are_new_ones_and_the_others_stay_where_they_are(tmp_path: Path) -> None:
    graph.save_onnx(normalized(), tmp_path / "in.onnx")
    done = slim(tmp_path / "in.onnx", tmp_path / "slim.onnx")
    assert done.operators == {"Conv": 2, "Relu": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.onnx", "in.onnx.data", "slim.onnx", "slim.onnx.data"
    ]  # fmt: skip
    wanted = Running(normalized()).run(["y"], FEEDS)[0]
    np.testing.assert_allclose(Running(tmp_path / "slim.onnx").run(["y"], FEEDS)[0], wanted, rtol=1e-3, atol=1e-3)


def test_weights_in_constant_nodes_lie_beside_it_too(tmp_path: Path) -> None:
    made = net()
    held = made.graph.initializer.pop()
    made.graph.node.insert(0, node("Constant", [], ["v"], name="weights", value=held))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    slim(tmp_path / "in.onnx", tmp_path / "slim.onnx")
    assert (tmp_path / "slim.onnx").stat().st_size < LIMIT < (tmp_path / "slim.onnx.data").stat().st_size
    np.testing.assert_array_equal(
        Running(tmp_path / "slim.onnx").run(["y"], FEEDS)[0], Running(net()).run(["y"], FEEDS)[0]
    )


def test_a_frozen_batch_is_freed_in_it_and_what_becomes_small_is_one_file(tmp_path: Path) -> None:
    made = reshaped((2, 4, SIDE, SIDE))
    made.graph.initializer.append(weight("unused", 64, 64))
    graph.save_onnx(made, tmp_path / "in.onnx")
    with pytest.raises(FrozenBatch):
        slim(tmp_path / "in.onnx", tmp_path / "slim.onnx")
    done = slim(tmp_path / "in.onnx", tmp_path / "slim.onnx", Options(free_batch=True))
    assert done.notes[0].startswith("1 Reshape held a batch of 2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "in.onnx.data", "slim.onnx"]


def test_methods_and_placements_are_chosen_as_for_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.save_onnx(net(), tmp_path / "m.onnx")
    frames = Batches([(tuple("abcd"), FEEDS), (tuple("efgh"), {"x": FEEDS["x"] * np.float32(0.5)})])
    first = calibrate(tmp_path / "m.onnx", frames, tmp_path / "one.cache", CalibrateOptions(holdout=0.5))
    monkeypatch.setattr(large, "PROTOBUF_LIMIT", 2**30)
    second = calibrate(tmp_path / "m.onnx", frames, tmp_path / "two.cache", CalibrateOptions(holdout=0.5))
    assert first.methods == second.methods
    assert [(item.placement, item.snr_db) for item in first.placements] == [
        (item.placement, item.snr_db) for item in second.placements
    ]
    assert first.placements[0].products == 2


SIDE_OF_SQUARE = 5120
SLIM = f"""
import sys
from pathlib import Path
from typing import Any
from edgeship.prepare import large
from edgeship.prepare.slim import slim

large.PROTOBUF_LIMIT = {2**20}
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

before = peak()
slim(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak() - before)
"""
"""Prints the KiB by which the peak of the process's memory grew, mapped files among them.

Not by ru_maxrss: that of a process begins with what its parent held."""


@pytest.mark.slow
def test_slim_holds_its_weights_once_in_memory_and_once_as_a_mapped_file(tmp_path: Path) -> None:
    """Five copies before; four squares of zeros, in a file that takes no room on the disk."""
    names = [f"w{place}" for place in range(4)]
    nodes = [
        node("MatMul", [before, name], [f"m{name}"], name=name)
        for before, name in zip(["x", *(f"m{name}" for name in names)], names, strict=False)
    ]
    made = model(nodes, [], inputs=[value("x", FLOAT, ["n", SIDE_OF_SQUARE])], outputs=[value("mw3", FLOAT, None)])
    size = 4 * SIDE_OF_SQUARE**2
    for place, name in enumerate(names):
        tensor = made.graph.initializer.add(name=name, dims=[SIDE_OF_SQUARE] * 2, data_type=FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "in.data"), ("offset", place * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(text))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    with (tmp_path / "in.data").open("wb") as stream:
        stream.truncate(4 * size)
    done = python("-c", SLIM, tmp_path / "in.onnx", tmp_path / "slim.onnx", check=True)
    assert 1 < int(done.stdout) * 1024 / (4 * size) < 3


@pytest.mark.slow
def test_modelopt_infers_and_checks_it_without_its_weights_to_the_same_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FP16 and INT8 for TensorRT: below the limit, where ModelOpt is left to itself, and beyond it."""
    whole, cache, batch = tmp_path / "in.onnx", tmp_path / "c.cache", (tuple("abcd"), FEEDS)
    given: list[int] = []
    usual = onnx.shape_inference.infer_shapes

    def infer_shapes(model: onnx.ModelProto, **settings: Any) -> onnx.ModelProto:
        given.append(large.weight_bytes(model))
        return usual(model, **settings)

    made: dict[tuple[str, int], list[tuple[str, tuple[str, ...]]]] = {}
    for limit in (2**30, LIMIT):
        monkeypatch.setattr(large, "PROTOBUF_LIMIT", limit)
        graph.save_onnx(net(), whole)
        calibrate(whole, Batches([batch]), cache, CalibrateOptions(method="minmax"))
        expected = calibration_cache.Expected(graph_sha256=calibration_cache.graph_hash(graph.load_onnx(whole)))
        scales = calibration_cache.load(cache, expected)
        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", infer_shapes)
        given.clear()
        for precision, used in (("fp16", None), ("int8", scales)):
            out = tmp_path / f"{precision}.onnx"
            done = quantize(whole, used, out, [batch], QuantizeOptions("tensorrt", precision))
            assert done.output_snr_db["y"] > 20
            read = graph.load_onnx(out)
            made[precision, limit] = [(node.op_type, tuple(node.input)) for node in read.graph.node]
        monkeypatch.setattr(onnx.shape_inference, "infer_shapes", usual)
        if limit == LIMIT:
            assert max(given) < LIMIT, "some inference of shapes was given the weights"
    assert (tmp_path / "int8.onnx.data").is_file()
    for precision in ("fp16", "int8"):
        assert made[precision, LIMIT] == made[precision, 2**30]


def test_int8_for_tensorrt_is_refused_where_modelopts_copies_do_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelopt, "COPIES", 10**9)
    reference, frame = net(), (tuple("abcd"), FEEDS)
    with pytest.raises(
        QuantizeError, match=r"weights are more than ModelOpt can quantize here[\s\S]*--for onnxruntime"
    ):
        modelopt.quantize(reference, frame, (), "int8", "fp32")
