"""Repairs of INT8: what each step does to a graph, that it keeps what it must keep, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_support import graph, node, patches, tiny
from onnx import numpy_helper

from edgeship.prepare import calibration_cache, compare
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.graph import load_onnx
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.quantize import QuantizeOptions
from edgeship.repair.adaround import choose
from edgeship.repair.bias import certain
from edgeship.repair.pairs import Pairs
from edgeship.repair.repair import Request, repair
from edgeship.repair.scaling import scale_pairs
from edgeship.results import Repaired

MINMAX = CalibrateOptions(method="minmax", placement=False)


def depthwise(activation: str = "Relu", *, tail: str = "w3") -> onnx.ModelProto:
    """A convolution whose channels differ a hundredfold, read by a depthwise one, read by a pointwise one."""
    rng = np.random.default_rng(3)
    spread = np.logspace(-2, 0, 8, dtype=np.float32)
    weights: dict[str, Any] = {
        "w": (rng.standard_normal((8, 3, 3, 3)) * spread[:, None, None, None]).astype(np.float32),
        "b": (0.2 * spread).astype(np.float32),
        "w2": rng.standard_normal((8, 1, 3, 3)).astype(np.float32),
        "b2": np.full(8, 0.05, np.float32),
        "w3": (rng.standard_normal((5, 8, 1, 1)) / spread[None, :, None, None]).astype(np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    reads = "c" if activation == "Relu" else "c zero six"
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node(activation, reads, "r"),
        node("Conv", "r w2 b2", "d", pads=[1, 1, 1, 1], group=8),
        node("Relu", "d", "e"),
        node("Conv", f"e {tail}", "y"),
    ]
    used = {name for item in nodes for name in item.input}
    return graph(nodes, {name: value for name, value in weights.items() if name in used}, ["batch", 3, 16, 16], ["y"])


def request(model: onnx.ModelProto, steps: tuple[str, ...], folder: Path, frames: Any = None) -> Request:
    """A repair of a graph that was calibrated on sixteen pictures."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    batches = Batches(frames or patches("depthwise"))
    calibrate(path, batches, folder / "calib.cache", MINMAX)
    base = calibration_cache.load(folder / "calib.cache", calibration_cache.Expected())
    return Request(steps, path, base, batches, batches, MINMAX, QuantizeOptions())


def repaired(model: onnx.ModelProto, folder: Path, *steps: str) -> Repaired:
    (folder / "out").mkdir()
    return repair(request(model, steps, folder), folder / "out")


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_equalizing_evens_channels_and_keeps_the_function(tmp_path: Path, activation: str) -> None:
    found = repaired(depthwise(activation), tmp_path, "equalize")
    assert found.changed == {"equalize": 2}
    assert found.float_db > 100.0
    assert found.improved and found.after_db > found.before_db + 6.0
    assert found.held_out == 5 and found.frames == 11
    after = infer(load_onnx(tmp_path / "out" / "model.onnx"))
    cache = calibration_cache.load(
        tmp_path / "out" / "calib.cache",
        calibration_cache.Expected(graph_sha256=calibration_cache.graph_hash(load_onnx(tmp_path / "out/model.onnx"))),
    )
    assert {name for item in after.graph.node for name in item.output} >= cache.ranges.keys() - {"x"}


def test_below_a_clip_no_channel_is_raised_beyond_its_end(tmp_path: Path) -> None:
    model = infer(depthwise("Clip"))
    loud = weight(model, "w") * 4.0  # the loudest channels reach 6 and are cut there
    next(item for item in model.graph.initializer if item.name == "w").CopyFrom(
        numpy_helper.from_array(loud.astype(np.float32), "w")
    )
    before = onnx.ModelProto()
    before.CopyFrom(model)
    assert scale_pairs(model, patches("depthwise"), "equalize") >= 1
    assert np.array_equal(weight(model, "w")[-1], loud[-1])
    assert np.abs(weight(model, "w")[0]).max() > 2 * np.abs(loud[0]).max()
    same = compare.compare_outputs(before, [("after", model)], patches("depthwise"), 16)["after"]
    assert same.output_snr_db > 100.0


def test_with_one_scale_for_each_weight_tensor_the_weights_are_evened() -> None:
    model = infer(depthwise())
    before = onnx.ModelProto()
    before.CopyFrom(model)
    assert scale_pairs(model, patches("depthwise"), "equalize", per_channel=False) == 2
    spread = [np.abs(weight(item, "w")).reshape(8, -1).max(axis=1) for item in (before, model)]
    assert spread[1].max() / spread[1].min() < 0.25 * spread[0].max() / spread[0].min()
    same = compare.compare_outputs(before, [("after", model)], patches("depthwise"), 16)["after"]
    assert same.output_snr_db > 100.0


@pytest.mark.parametrize("kind", ["residual", "concat", "shared", "attention"])
def test_what_more_than_convolutions_read_is_not_scaled(kind: str) -> None:
    assert Pairs(infer(tiny(kind))).find("equalize") == []


def test_smoothing_moves_the_uneven_channels_of_a_normalization_into_the_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    gamma = np.ones(16, np.float32)
    gamma[3] = 60.0  # one channel that stands out, as in transformers
    weights = {"g": gamma, "o": np.zeros(16, np.float32)}
    weights |= {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("wq", "wk")}
    nodes = [
        node("LayerNormalization", "x g o", "n", axis=-1),
        node("MatMul", "n wq", "q"),
        node("MatMul", "n wk", "k"),
    ]
    nodes += [node("Softmax", "k", "s", axis=-1), node("Mul", "q s", "y")]
    model = graph(nodes, weights, ["batch", 12, 16], ["y"])
    (tmp_path / "out").mkdir()
    found = repair(request(model, ("smooth",), tmp_path, patches("attention")), tmp_path / "out")
    assert found.changed == {"smooth": 1} and found.float_db > 100.0
    assert found.after_db > found.before_db + 3.0


def test_bias_correction_takes_the_mean_error_out(tmp_path: Path) -> None:
    found = repaired(depthwise(), tmp_path, "bias-correct")
    assert found.changed == {"bias-correct": 3}
    assert found.after_db > found.before_db
    after = load_onnx(tmp_path / "out" / "model.onnx")
    assert np.array_equal(weight(after, "w"), weight(depthwise(), "w"))
    assert len(after.graph.node[-1].input) == 3  # the last convolution had no bias


def test_an_error_on_which_frames_disagree_is_not_corrected() -> None:
    steady = np.full((8, 1), 0.5)
    moody = np.array([[1.0], [-1.0]] * 4)
    assert certain(steady) == pytest.approx(np.array([0.5]))
    assert certain(moody + 0.1) == pytest.approx(np.array([0.0]))


def test_learned_rounding_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = repaired(depthwise(), tmp_path, "adaround")
    assert found.changed["adaround"] >= 1
    assert found.after_db > found.before_db
    before, after = weight(depthwise(), "w3"), weight(load_onnx(tmp_path / "out" / "model.onnx"), "w3")
    step = np.abs(before).max(axis=(1, 2, 3), keepdims=True) / 127
    assert np.allclose(after / step, np.rint(after / step), atol=1e-3)
    assert np.abs(after - before).max() < step.max()
    assert np.allclose(np.abs(after).max(axis=(1, 2, 3)), 127 * step.ravel())  # the grid stays


def test_chosen_steps_are_never_worse_than_the_nearest() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((64, 12)) @ rng.standard_normal((12, 12)) + 1.0
    own = (inputs.T @ inputs)[None]
    weights = rng.uniform(-126, 126, (1, 6, 12))
    weights[0, :, 0] = 127.0
    found = choose(weights, np.ones_like(weights), own, own)

    def error(steps: np.ndarray) -> np.ndarray:
        return np.square(inputs @ (steps - weights)[0].T).sum(axis=0)

    assert (found[0, :, 0] == 127.0).all()
    assert (np.abs(found - weights) < 1.0).all()
    assert (error(found) <= error(np.rint(weights)) * 1.02).all()
    assert error(found).sum() < 0.7 * error(np.rint(weights)).sum()


def test_steps_follow_one_another(tmp_path: Path) -> None:
    found = repaired(depthwise("Clip"), tmp_path, "equalize", "adaround", "bias-correct")
    assert list(found.changed) == ["equalize", "adaround", "bias-correct"]
    assert found.after_db > found.before_db + 6.0


def test_a_step_that_finds_nothing_says_so(tmp_path: Path) -> None:
    found = repaired(depthwise(), tmp_path, "smooth")
    assert found.changed == {"smooth": 0} and not found.improved
    assert found.after_db == found.before_db
    assert found.notes == ("smooth: no layer normalization is read by matrix products with constant weights alone",)
