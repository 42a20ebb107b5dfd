"""ModelOpt's real tuner, measured by a clock that can be foretold: what it leaves in float, state, budget, refusal."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import onnx
import pytest
from small_onnx import convolutions

from edgeship.errors import DeviceError, QuantizeError
from edgeship.prepare.autotune import SPENT, STATE, Request, autotune, tensorrt_measure

pytestmark = pytest.mark.slow  # loading ModelOpt takes seconds
SLOW = {"conv2"}
"""Layers that INT8 slows down in these tests."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolutions(tmp_path_factory.mktemp("autotune") / "net.onnx")


def milliseconds(content: bytes) -> float:
    """Ten without Q/DQ pairs; each product in INT8 takes one off, and a slow one puts three on."""
    proto = onnx.load_from_string(content)
    made = {name: node for node in proto.graph.node for name in node.output}
    rounded = [
        node.name
        for node in proto.graph.node
        if node.op_type in ("Conv", "MatMul") and made.get(node.input[0], node).op_type == "DequantizeLinear"
    ]
    return 10.0 + sum(3.0 if name in SLOW else -1.0 for name in rounded)


def request_for(model: Path, folder: Path, budget_s: float = 100.0, schemes: int = 12) -> Request:
    return Request(model, folder, budget_s, {"images": (1, 3, 16, 16)}, schemes=schemes)


def test_what_the_fastest_placement_leaves_in_float_is_kept(model: Path, tmp_path: Path) -> None:
    found = autotune(request_for(model, tmp_path), milliseconds)
    assert found.finished and found.products == 5 and found.regions > 0
    assert found.baseline_ms == 10.0
    assert found.best_ms < found.baseline_ms
    inside = 10.0 - (found.products - len(found.keep)) + 4 * len(SLOW - set(found.keep))
    assert found.best_ms == inside, "what is kept is what the measured graph leaves in float"


def test_a_run_that_was_stopped_goes_on_and_measures_no_region_again(model: Path, tmp_path: Path) -> None:
    calls = 0

    def broken(content: bytes) -> float:
        nonlocal calls
        calls += 1
        if (tmp_path / STATE).is_file():  # the first region is done
            raise KeyboardInterrupt
        return milliseconds(content)

    with pytest.raises(KeyboardInterrupt):
        autotune(request_for(model, tmp_path, schemes=3), broken)
    assert (tmp_path / STATE).is_file() and (tmp_path / SPENT).is_file()
    whole = autotune(request_for(model, tmp_path / "whole", schemes=3), milliseconds)
    rest = autotune(request_for(model, tmp_path, schemes=3), milliseconds)
    assert rest.finished and rest.baseline_ms == 10.0
    assert rest.tried < whole.tried
    assert autotune(request_for(model, tmp_path, schemes=3), milliseconds).tried == 0, "all is known"


def test_the_budget_is_of_all_runs_together(model: Path, tmp_path: Path) -> None:
    (tmp_path / SPENT).write_text('{"seconds": 99.0}')
    found = autotune(request_for(model, tmp_path, budget_s=90.0), milliseconds)
    assert (found.finished, found.tried) == (False, 0)
    assert found.seconds > 99.0
    (tmp_path / SPENT).write_text("not JSON")
    assert autotune(request_for(model, tmp_path / "new", budget_s=90.0), milliseconds).finished


def test_a_graph_that_cannot_be_measured_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="could not build or time the FP32 graph"):
        autotune(request_for(model, tmp_path), lambda content: float("inf"))


def test_without_tensorrt_the_reason_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match="the package tensorrt is not installed") as caught:
        autotune(request_for(model, tmp_path))
    assert caught.value.do is not None and "remove candidates.autotune_s" in caught.value.do
    with pytest.raises(DeviceError):
        tensorrt_measure(tmp_path, {})


def test_modelopt_offers_what_is_called() -> None:
    from modelopt.onnx.quantization.autotune import Config, QDQAutotuner, TensorRTPyBenchmark

    def takes(function: object, *names: str) -> bool:
        return set(names) <= set(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert takes(TensorRTPyBenchmark, "timing_cache_file", "warmup_runs", "timing_runs")
    assert takes(TensorRTPyBenchmark.run, "path_or_bytes")
    assert takes(TensorRTPyBenchmark.set_shapes, "input_name", "min_shape", "opt_shape", "max_shape")
    assert takes(Config, "default_quant_type", "default_dq_dtype")
    assert takes(QDQAutotuner.export_onnx, "output_path", "insert_qdq", "best")
    assert takes(QDQAutotuner.submit, "latency_ms", "success")
    assert takes(QDQAutotuner.set_profile_region, "region", "commit")
