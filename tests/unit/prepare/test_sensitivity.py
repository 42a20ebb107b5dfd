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
from edgeship.prepare.qdq_onnxruntime import ort_graph
from edgeship.prepare.sensitivity import RankOptions, Simulator, find_groups, rank

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


def test_no_frames_and_nothing_to_rank_are_refused(prepared):
    model, calibration, frames = prepared
    with pytest.raises(DataError, match="no frames"):
        rank(model, calibration, [], RankOptions())
    with pytest.raises(UserInputError, match="nothing to rank"):
        rank(model, calibration, frames, RankOptions(keep=("*",)))
    with pytest.raises(UserInputError, match="names no node"):
        rank(model, calibration, frames, RankOptions(keep=("conv99",)))
