"""The onnxruntime engine on CUDA: outputs, precision, graphs, memory, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from gpu_models import images, nonzero, wide, with_cpu_only_node

from edgeship import engines
from edgeship.config import Batch, Benchmark, Target
from edgeship.engines import BuildRequest, OpenOptions, cuda
from edgeship.errors import DataError, DeviceError, PrecisionError
from edgeship.trial.benchmark import benchmark

ENGINE = engines.get("onnxruntime")
CUDA0 = Target(device="cuda:0", batch=Batch(min=1, opt=4, max=8))


def request_for(
    model: Path, precision: str = "fp32", place: Path | None = None, target: Target = CUDA0
) -> BuildRequest:
    folder = place or model.parent
    return BuildRequest(onnx=model, output=folder / "engine.onnx", precision=precision, target=target)


def opened(path: Path, **options):
    return ENGINE.open(path, OpenOptions(device="cuda:0", **({"cuda_graph": True} | options)))


def test_the_probe_lists_the_gpu() -> None:
    assert "cuda:0" in ENGINE.probe().devices
    found = ENGINE.identity("cuda:0")
    assert found.compute_capability is not None
    assert found.driver is not None
    assert ENGINE.misfits(found, "cuda:0") == []
    assert len(ENGINE.misfits(ENGINE.identity("cpu"), "cuda:0")) == 2


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("nhwc", [True, False])
def test_fp32_agrees_with_the_cpu(fp32: Path, answers: np.ndarray, cuda_graph: bool, nhwc: bool) -> None:
    with opened(fp32, cuda_graph=cuda_graph, nhwc=nhwc) as runner:
        assert runner.cuda_graph is cuda_graph
        for _ in range(4):
            np.testing.assert_allclose(runner.infer(images(4))["logits"], answers, rtol=1e-3, atol=1e-4)
        other = runner.infer(images(4, seed=1))["logits"]
        assert not np.allclose(other, answers)
        np.testing.assert_allclose(runner.infer(images(4))["logits"], answers, rtol=1e-3, atol=1e-4)


def test_tf32_is_off_unless_asked_for(fp32: Path, answers: np.ndarray) -> None:
    errors = {}
    for tf32 in (False, True):
        with opened(fp32, tf32=tf32) as runner:
            errors[tf32] = float(np.abs(runner.infer(images(4))["logits"] - answers).max())
    assert errors[False] < 1e-4
    assert errors[True] >= errors[False]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_batch_that_comes_back_is_captured_anew(precision: str, request: pytest.FixtureRequest) -> None:
    path, kind = request.getfixturevalue(precision), np.float32 if precision == "fp32" else np.float16
    answers: dict[int, np.ndarray] = {}
    with opened(path) as runner, opened(path, cuda_graph=False) as plain:
        first = runner.timer(images(1, dtype=kind))
        assert first.cuda_graph
        for rows in (1, 8, 1, 3, 8, 1):
            feeds = images(rows, dtype=kind)
            if rows not in answers:
                answers[rows] = plain.infer(feeds)["logits"]
            for _ in range(3):
                np.testing.assert_allclose(runner.infer(feeds)["logits"], answers[rows], rtol=2e-2, atol=2e-2)
            first()
            np.testing.assert_allclose(first.outputs()["logits"], answers[1], rtol=2e-2, atol=2e-2)
        assert first.cuda_graph


def test_a_session_that_changes_its_batch_all_the_time_runs_without_graphs_and_says_so(
    fp32: Path, answers: np.ndarray
) -> None:
    with opened(fp32) as runner:
        for rows in [1, 2, 3, 4, 3, 2, 1, 4, 5, 6, 7, 8, 9, 10, 11, 4, 11, 1]:
            found = runner.infer(images(rows))["logits"]
            assert found.shape == (rows, 10)
        np.testing.assert_allclose(runner.infer(images(4))["logits"], answers, rtol=1e-3, atol=1e-4)
        timer = runner.timer(images(5))
        timer()
        assert not timer.cuda_graph
        assert "changed more than 16 times" in timer.no_graph


def test_fp16_runs_in_fp16_and_the_profile_shows_it(fp16: Path, tmp_path: Path) -> None:
    request = request_for(fp16, "fp16", tmp_path)
    built = ENGINE.build(request)
    assert built.identity.device.startswith("NVIDIA")
    audit = ENGINE.audit(request.output, request, OpenOptions(device="cuda:0"))
    assert audit.achieved == 1.0, audit
    assert audit.layers["Conv"] == {"fp16": 6}
    with opened(request.output) as runner:
        assert runner.infer(images(4, dtype=np.float16))["logits"].dtype == np.float16


def test_an_fp32_graph_passed_off_as_fp16_is_refused(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="fp16 was asked for"):
        ENGINE.build(request_for(fp32, "fp16", tmp_path))


def test_int8_is_refused_because_cuda_runs_none_of_it(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="int8 was asked for, and onnxruntime on cuda:0 runs none of it"):
        ENGINE.build(request_for(fp32, "int8", tmp_path))


def test_the_built_file_gives_the_same_outputs(fp32: Path, answers: np.ndarray, tmp_path: Path) -> None:
    request = request_for(fp32, "fp32", tmp_path)
    built = ENGINE.build(request)
    assert built.notes
    with opened(request.output) as runner:
        np.testing.assert_allclose(runner.infer(images(4))["logits"], answers, rtol=1e-3, atol=1e-4)


def test_device_time_wall_time_and_transfers_are_apart(fp32: Path, tmp_path: Path) -> None:
    settings = Benchmark(warmup_s=0.3, min_s=0.5, max_s=5)
    with opened(fp32) as runner:
        latency = benchmark(runner, images(4), settings, folder=tmp_path)
    assert latency.device_ms is not None
    assert latency.upload_ms is not None
    assert latency.download_ms is not None
    parts = latency.device_ms.p50 + latency.upload_ms.p50 + latency.download_ms.p50
    assert latency.device_ms.p50 < latency.wall_ms.p50
    assert parts < latency.wall_ms.p50 * 1.05
    assert latency.cuda_graph
    assert latency.peak_memory_mib is not None
    assert latency.conditions.source in ("nvml", "jetson sysfs")
    assert latency.conditions.clock_mhz


def test_the_timer_gives_the_outputs_of_infer(fp32: Path) -> None:
    with opened(fp32) as runner:
        timer = runner.timer(images(2))
        for _ in range(5):
            timer()
        np.testing.assert_array_equal(timer.outputs()["logits"], runner.infer(images(2))["logits"])


def test_a_node_without_a_cuda_kernel_gives_up_the_graph_and_says_so(tmp_path: Path) -> None:
    path = with_cpu_only_node(tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with opened(path) as runner:
        assert not runner.cuda_graph
        np.testing.assert_allclose(runner.infer({"x": x})["y"], wanted, rtol=1e-3, atol=1e-3)


def test_outputs_of_a_size_that_depends_on_the_data(tmp_path: Path) -> None:
    with opened(nonzero(tmp_path / "net.onnx"), cuda_graph=False) as runner:
        for values, places in (([0, 1, 0, 2], [1, 3]), ([1, 1, 0, 1], [0, 1, 3])):
            assert runner.infer({"values": np.array(values, np.float32)})["places"].tolist() == [places]


def test_the_timer_says_why_an_output_of_unknown_size_has_no_graph(tmp_path: Path) -> None:
    with opened(nonzero(tmp_path / "net.onnx"), cuda_graph=True) as runner:
        timer = runner.timer({"values": np.array([0, 1, 2, 0], np.float32)})
        timer()
        assert timer.outputs()["places"].tolist() == [[1, 2]]
        assert not timer.cuda_graph
        assert timer.no_graph


def test_wrong_feeds_are_refused_before_the_device_sees_them(fp32: Path) -> None:
    with opened(fp32) as runner, pytest.raises(DataError, match="'images' is float64"):
        runner.infer({"images": np.zeros((1, 3, 64, 64))})


def test_a_device_index_that_is_not_there(fp32: Path) -> None:
    with pytest.raises(DeviceError, match="no device 'cuda:99'"):
        ENGINE.open(fp32, OpenOptions(device="cuda:99"))


def test_a_batch_too_large_names_one_that_fits(tmp_path: Path) -> None:
    path = wide(tmp_path / "net.onnx")
    feeds = {"images": np.zeros((256, 3, 256, 256), np.float32)}
    with opened(path, cuda_graph=False) as runner:
        runner.infer({"images": feeds["images"][:1]})
        hog = cuda.DeviceBuffer(cuda.memory()[0] - (3 << 30))
        try:
            with pytest.raises(DeviceError, match=r"batch 256: .*; batch \d+ fits"):
                runner.infer(feeds)
            assert runner.infer({"images": feeds["images"][:1]})["logits"].shape == (1, 10)
        finally:
            hog.close()


def test_a_batch_of_one_that_does_not_fit(tmp_path: Path) -> None:
    path = wide(tmp_path / "net.onnx")
    with opened(path, cuda_graph=False) as runner:
        hog = cuda.DeviceBuffer(cuda.memory()[0] - (32 << 20))
        try:
            with pytest.raises(DeviceError, match=r"batch 2: .*; no smaller batch fits either"):
                runner.infer({"images": np.zeros((2, 3, 256, 256), np.float32)})
        finally:
            hog.close()


def test_opening_and_closing_gives_the_memory_back(fp32: Path) -> None:
    def once() -> int:
        with opened(fp32) as runner:
            runner.infer(images(4))
        return cuda.memory()[0]

    once()
    first = once()
    for _ in range(5):
        last = once()
    assert last >= first - (32 << 20)
