"""The ranking names the convolution that was made hard to quantize, and the simulation is the quantizer's own graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeship.errors import DataError, UserInputError
from edgeship.prepare import calibration_cache, compare
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.node_groups import Group
from edgeship.prepare.qdq_onnxruntime import ort_graph
from edgeship.prepare.running import Running
from edgeship.prepare.sensitivity import RankOptions, Simulator, find_groups, rank
from edgeship.prepare.switched_graph import FLAGS, SwitchedGraph

CHANNELS = 8


def network(layers=5, hard=2):
    """Convolutions with SiLU; the input channels of number ``hard`` differ in size by a factor of 300."""
    random = np.random.default_rng(0)
    nodes, weights, source = [], [], "images"
    for k in range(layers):
        inputs = 3 if k == 0 else CHANNELS
        depthwise = k == 1
        values = random.normal(0, 0.3, (CHANNELS, 1 if depthwise else inputs, 3, 3)).astype(np.float32)
        if k == hard - 1:
            values *= np.geomspace(1, 300, CHANNELS)[:, None, None, None].astype(np.float32)
        if k == hard:
            values /= np.geomspace(1, 300, CHANNELS)[None, :, None, None].astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        group = CHANNELS if depthwise else 1
        nodes += [
            helper.make_node("Conv", [source, f"w{k}"], [f"c{k}"], f"conv{k}", pads=[1] * 4, group=group),
            helper.make_node("Sigmoid", [f"c{k}"], [f"s{k}"], f"sigmoid{k}"),
            helper.make_node("Mul", [f"c{k}", f"s{k}"], [f"m{k}"], f"mul{k}"),
        ]
        source = f"m{k}"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["batch", CHANNELS, 16, 16])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity")
    onnx.save(network(), folder / "model.onnx")
    random = np.random.default_rng(1)
    frames = Batches([((f"{k}a", f"{k}b"), {"images": random.random((2, 3, 16, 16), np.float32)}) for k in range(8)])
    calibrate(folder / "model.onnx", frames, folder / "calib.cache", CalibrateOptions(method="minmax"))
    return folder / "model.onnx", calibration_cache.load(folder / "calib.cache", calibration_cache.Expected()), frames


def test_groups_are_convolutions_with_their_activation():
    groups = find_groups(infer(network()), frozenset(), "onnxruntime")
    assert [[node.name for node in group.nodes] for group in groups] == [
        [f"conv{k}", f"sigmoid{k}", f"mul{k}"] for k in range(5)
    ]
    assert [group.patterns for group in groups] == [("first",), ("depthwise",), (), (), ("last",)]


def test_what_is_joined_for_an_output_alone_is_in_no_group():
    made = network(2)
    made.graph.node.append(helper.make_node("Concat", ["m0", "m1"], ["y"], "join", axis=1))
    made.graph.output[0].name = "y"
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2 * CHANNELS
    assert all(len(group.nodes) == 3 for group in find_groups(infer(made), frozenset(), "onnxruntime"))


def test_a_kept_node_is_in_no_group():
    groups = find_groups(infer(network()), frozenset(["conv1", "sigmoid1", "mul1"]), "onnxruntime")
    assert len(groups) == 4
    assert "conv1" not in {node.name for group in groups for node in group.nodes}


@pytest.mark.parametrize("style", ["onnxruntime", "tensorrt"])
def test_the_guilty_come_first_and_keeping_them_helps(prepared, style):
    model, calibration, frames = prepared
    found = rank(model, calibration, frames, RankOptions(style=style))
    guilty = {name for group in found.groups[:2] for name in group.nodes}
    assert "conv2" in guilty
    assert found.groups[0].snr_db < found.groups[-1].snr_db - 6
    assert found.frames == 4
    curve = dict(found.curve)
    assert curve[0] == found.plain_db
    assert curve[2] > curve[0] + 3


def test_everything_quantized_is_the_quantizers_own_graph(prepared):
    model, calibration, frames = prepared
    reference = infer(onnx.load(model))
    simulator = Simulator(onnx.load(model), calibration, frames, RankOptions(frames=8))
    simulated = simulator.snr(range(len(simulator.groups)))
    real = compare.compare(reference, ort_graph(reference, calibration, ()), frames, limit=8, layers=False)
    assert simulated == pytest.approx(real.output_snr_db, abs=1.0)


def test_a_plan_is_the_quantizers_own_graph_with_those_nodes_kept(prepared):
    model, calibration, frames = prepared
    reference = infer(onnx.load(model))
    simulator = Simulator(onnx.load(model), calibration, frames, RankOptions(frames=8))
    real = compare.compare(
        reference, ort_graph(reference, calibration, ("conv2", "sigmoid2", "mul2")), frames, limit=8, layers=False
    )
    assert simulator.snr([0, 1, 3, 4]) == pytest.approx(real.output_snr_db, abs=1.0)


def test_nothing_quantized_is_the_reference(prepared):
    model, calibration, frames = prepared
    assert Simulator(onnx.load(model), calibration, frames, RankOptions()).snr([]) == compare.CEILING_DB


def test_a_result_that_is_no_float_keeps_its_type():
    """TopK finds places beside values: a group that is switched to FP16 gives both."""
    made = network()
    weight = numpy_helper.from_array(np.full((CHANNELS, 3, 1, 1), 0.1, np.float32), "w0")
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["c"], "conv"),
        helper.make_node("TopK", ["c", "k"], ["best", "places"], "topk", axis=1),
        helper.make_node("Cast", ["places"], ["placed"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["best", "placed"], ["y"], "add"),
    ]
    counts = numpy_helper.from_array(np.array([2], np.int64), "k")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 16, 16])
    graph = helper.make_graph(nodes, "net", made.graph.input, [output], [weight, counts])
    model = infer(helper.make_model(graph, opset_imports=made.opset_import, ir_version=10))
    topk = next(node for node in model.graph.node if node.op_type == "TopK")
    switched = SwitchedGraph(model, None, "fp16", per_channel=True).build([Group([topk])])
    feeds = {"images": np.random.default_rng(2).random((2, 3, 16, 16), np.float32)}
    (wanted,) = Running(model).run(["y"], feeds)
    for on in (False, True):
        (found,) = Running(switched).run(["y"], feeds | {FLAGS: np.array([on])})
        np.testing.assert_allclose(found, wanted, rtol=1e-2)


def test_no_frames_and_nothing_to_rank_are_refused(prepared):
    model, calibration, frames = prepared
    with pytest.raises(DataError, match="no frames"):
        rank(model, calibration, [], RankOptions())
    with pytest.raises(UserInputError, match="nothing to rank"):
        rank(model, calibration, frames, RankOptions(keep=("*",)))
    with pytest.raises(UserInputError, match="names no node"):
        rank(model, calibration, frames, RankOptions(keep=("conv99",)))
