"""The build and audit steps on a trial's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeship.config import Batch, Benchmark, ShapeRange, Target
from edgeship.errors import PrecisionError
from edgeship.results import Artifact, Candidate, TrialSpec, write
from edgeship.trial.build import audit, build, request_of
from edgeship.trial.run import built_batch, open_options, run_trial


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "candidate.onnx")
    np.savez(tmp_path / "frames.npz", x=np.ones((3, 8), np.float32))
    return tmp_path


def spec_for(folder: Path, precision: str, **target) -> TrialSpec:
    return TrialSpec(
        candidate=Candidate(name=precision, precision=precision, keep=("product",)),
        target=Target(batch=Batch(max=4), **target),
        model=Artifact.of(folder / "candidate.onnx", folder),
        frames=Artifact.of(folder / "frames.npz", folder),
        benchmark=Benchmark(),
    )


def test_the_engine_and_its_log_stand_in_the_folder(folder: Path) -> None:
    seen = []
    spec = spec_for(folder, "fp32")
    built = build(spec, folder, lambda done, total, what: seen.append((done, total)))
    assert built.engine == Artifact.of(folder / "engine.onnx", folder)
    assert built.log == Artifact.of(folder / "build.log", folder)
    assert seen[-1] == (3, 3)
    found = audit(spec, folder, built)
    assert found.layers == {"MatMul": {"fp32": 1}}
    assert found.kept == ("product",)


def test_a_precision_the_device_lacks_stops_the_build(folder: Path) -> None:
    with pytest.raises(PrecisionError, match="fp8"):
        build(spec_for(folder, "fp8"), folder)
    assert not (folder / "engine.onnx").exists()


def test_the_implicit_calibrator_gets_the_frames_one_row_at_a_time(folder: Path) -> None:
    request = request_of(spec_for(folder, "implicit", engine="tensorrt"), folder)
    assert request.frames is not None
    rows = [feeds["x"].shape for feeds in request.frames]
    assert rows == [(1, 8)] * 3
    assert request_of(spec_for(folder, "int8"), folder).frames is None


def test_a_trial_takes_its_batches_from_the_profile_that_was_built(folder: Path) -> None:
    """The input's own range, where ``target.batch`` stays at its default of one."""
    range_ = ShapeRange(min=(4, 8), opt=(8, 8), max=(16, 8))
    spec = spec_for(folder, "fp32", shapes={"x": range_}).model_copy(
        update={"benchmark": Benchmark(warmup_s=0.01, min_s=0.02, min_samples=10, precision=0.5)}
    )
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"batch": Batch()})})
    write(spec, folder / "spec.json")
    trial = run_trial(folder)
    assert trial.failure is None
    assert trial.build is not None
    assert built_batch(spec, trial.build) == Batch(min=4, opt=8, max=16)
    assert trial.latency is not None
    assert trial.latency.batch == 8
    assert open_options(spec).max_batch is None, "the profile's own maximum"
    with np.load(folder / "known.npz") as known:
        assert known["in:x"].shape == (4, 8)
