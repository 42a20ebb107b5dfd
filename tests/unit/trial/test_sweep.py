"""Sweeping batches over one real engine, and drawing what came out."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeship import engines
from edgeship.config import Benchmark
from edgeship.engines import OpenOptions
from edgeship.errors import DataError, UserInputError
from edgeship.results import TensorInfo
from edgeship.trial.sweep import feeds_for, plot_svg, sweep

QUICK = Benchmark(warmup_s=0.001, min_s=0.01, max_s=0.2, min_samples=5, precision=0.9)


def model(path, batch: str | int = "batch"):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return engines.get("onnxruntime").open(path, OpenOptions(threads=1))


def test_each_batch_is_measured_once_smallest_first(tmp_path) -> None:
    seen = []
    with model(tmp_path / "net.onnx") as runner:
        found = sweep(runner, [4, 1, 2, 4], QUICK, progress=lambda done, total, what: seen.append((done, total, what)))
    assert [latency.batch for latency in found.latencies] == [1, 2, 4]
    assert found.stopped == ""
    assert "seeded noise" in found.feeds
    assert seen[0] == (0, 3, "batch 1")
    drawn = ET.fromstring(plot_svg(found, "a <title> & more"))
    assert sum(item.tag.endswith("circle") for item in drawn.iter()) == 6


def test_a_fixed_batch_is_the_only_one(tmp_path) -> None:
    with model(tmp_path / "net.onnx", 3) as runner:
        assert [latency.batch for latency in sweep(runner, [1], QUICK).latencies] == [3]
        with pytest.raises(UserInputError, match="batch is fixed at 3, and 2, 4 was asked for"):
            sweep(runner, [2, 4], QUICK)


def test_frames_are_repeated_or_cut_to_the_batch() -> None:
    inputs = [TensorInfo(name="x", shape=("batch", 2), dtype="float32")]
    frames = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
    assert feeds_for(inputs, 2, frames)["x"].tolist() == [[0, 1], [2, 3]]
    assert feeds_for(inputs, 4, frames)["x"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    with pytest.raises(DataError, match="have no 'x'"):
        feeds_for(inputs, 1, {"y": frames["x"]})
    with pytest.raises(DataError, match="are empty"):
        feeds_for(inputs, 1, {"x": frames["x"][:0]})


def test_another_dynamic_axis_needs_a_shape() -> None:
    inputs = [TensorInfo(name="x", shape=("batch", 3, "height", "width"), dtype="uint8")]
    with pytest.raises(DataError, match="dynamic axes beside the batch") as caught:
        feeds_for(inputs, 1)
    assert "--shape x=1x3x480x640" in str(caught.value)
    made = feeds_for(inputs, 2, shapes={"x": (1, 3, 8, 9)})["x"]
    assert made.shape == (2, 3, 8, 9)
    assert made.dtype == np.uint8


def test_batches_below_one_are_refused(tmp_path) -> None:
    with model(tmp_path / "net.onnx") as runner, pytest.raises(UserInputError, match="below 1"):
        sweep(runner, [0], QUICK)
