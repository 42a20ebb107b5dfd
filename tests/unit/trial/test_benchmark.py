"""Measuring: quantiles against their definition, stopping rules against a scripted clock, and one real engine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeship import engines
from edgeship.config import Benchmark
from edgeship.decide.statistics import quantile_upper
from edgeship.engines import OpenOptions, Timing
from edgeship.errors import DataError
from edgeship.results import TensorInfo
from edgeship.results.separate_calls import calls_needed
from edgeship.trial.benchmark import (
    benchmark,
    fit_drift,
    median_interval,
    quantiles,
)
from edgeship.trial.conditions import Sample, Watch

QUICK = Benchmark(warmup_s=0.01, min_s=0.02, max_s=5.0, min_samples=20, precision=0.5)
FEEDS = {"x": np.zeros((4, 2), np.float32)}


@dataclass
class Scripted:
    """An engine of known times: what a real one reports, without its work."""

    times: list[Timing]
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    no_graph: str = ""
    calls: int = 0
    seen: list[float] = field(default_factory=list)

    def infer(self, feeds):
        return {}

    def timer(self, feeds):
        return ScriptedTimer(self)

    def close(self) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None: ...


@dataclass
class ScriptedTimer:
    runner: Scripted
    cuda_graph: bool = False

    @property
    def no_graph(self) -> str:
        return self.runner.no_graph

    def __call__(self) -> Timing:
        runner = self.runner
        taken = runner.times[runner.calls % len(runner.times)]
        runner.calls += 1
        runner.seen.append(time.perf_counter())
        time.sleep(taken.wall_ms / 1e3)
        return taken

    def outputs(self):
        return {}


@given(st.lists(st.floats(min_value=1e-3, max_value=1e3), min_size=1, max_size=300))
def test_quantiles_are_samples_in_order_and_cover_their_share(values: list[float]) -> None:
    samples = np.array(values)
    found = quantiles(samples)
    assert found.min <= found.p50 <= found.p90 <= found.p99 <= samples.max()
    for share, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        assert value in values
        assert np.mean(samples <= value) >= share - 1e-9
    assert found.interval[0] <= found.p50 <= found.interval[1]
    assert found.samples == len(values)


@pytest.mark.parametrize(("count", "ranks"), [(100, (40, 60)), (1000, (469, 531)), (10, (1, 9)), (3, (0, 2))])
def test_the_interval_of_the_median_takes_the_binomials_ranks(count: int, ranks: tuple[int, int]) -> None:
    assert median_interval(np.arange(count, dtype=float)) == (float(ranks[0]), float(ranks[1]))


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        low, high = median_interval(np.sort(random.exponential(size=101)))
        hits += low <= np.log(2) <= high
    assert hits / 400 >= 0.93


def test_samples_settle_and_are_written_with_their_order(tmp_path) -> None:
    runner = Scripted([Timing(1.0, 0.5, 0.1, 0.2)])
    latency = benchmark(runner, FEEDS, QUICK, folder=tmp_path, watch=Watch())
    assert latency.settled
    assert latency.batch == 4
    assert latency.wall_ms.p50 == 1.0
    assert latency.device_ms is not None
    assert latency.device_ms.p50 == 0.5
    assert latency.throughput == pytest.approx(4000)
    with np.load(tmp_path / "latency.npz") as stored:
        assert set(stored.files) == {"wall_ms", "device_ms", "upload_ms", "download_ms"}
        assert stored["wall_ms"].size == latency.wall_ms.samples
    assert latency.samples is not None
    assert latency.samples.path == "latency.npz"


def test_a_graph_that_was_asked_for_and_not_replayed_is_said_with_its_reason() -> None:
    latency = benchmark(Scripted([Timing(0.5)], no_graph="it cannot be captured"), FEEDS, QUICK, watch=Watch())
    assert not latency.cuda_graph
    assert latency.no_graph == "it cannot be captured"


def test_wall_time_alone_leaves_device_time_empty(tmp_path) -> None:
    latency = benchmark(Scripted([Timing(0.5)]), FEEDS, QUICK, folder=tmp_path, watch=Watch())
    assert latency.device_ms is None
    with np.load(tmp_path / "latency.npz") as stored:
        assert stored.files == ["wall_ms"]


def test_what_does_not_settle_ends_at_the_time_limit_and_says_so() -> None:
    noisy = Scripted([Timing(0.1), Timing(3.0)])
    settings = Benchmark(warmup_s=0.001, min_s=0.05, max_s=0.4, min_samples=10, precision=0.001)
    latency = benchmark(noisy, FEEDS, settings, watch=Watch())
    assert not latency.settled
    assert 0.4 <= latency.seconds < 1.5
    assert latency.samples is None


def test_warm_up_calls_are_not_among_the_samples() -> None:
    runner = Scripted([Timing(1.0)])
    latency = benchmark(runner, FEEDS, QUICK, watch=Watch())
    assert runner.calls > latency.wall_ms.samples
    assert latency.warmup_s >= QUICK.warmup_s


def test_min_samples_and_min_seconds_both_hold() -> None:
    runner = Scripted([Timing(0.2)])
    settings = Benchmark(warmup_s=0.001, min_s=0.3, max_s=5.0, min_samples=10, precision=0.5)
    latency = benchmark(runner, FEEDS, settings, watch=Watch())
    assert latency.wall_ms.samples >= 10
    assert latency.seconds >= 0.3


def test_throttling_seen_during_the_run_is_reported() -> None:
    readings = iter([Sample(1980.0), *[Sample(1200.0, reasons=("software power cap",))] * 100])
    watch = Watch(lambda: next(readings), "nvml")
    latency = benchmark(Scripted([Timing(0.5)]), FEEDS, QUICK, watch=watch)
    assert latency.conditions.throttle_reasons == ("software power cap",)
    assert latency.conditions.changed == (
        "the device throttled: software power cap; the clock moved between 1200 and 1980 MHz"
    )


def test_a_real_engine_is_measured(tmp_path) -> None:
    path = tmp_path / "net.onnx"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with engines.get("onnxruntime").open(path, OpenOptions(threads=1)) as runner:
        latency = benchmark(runner, FEEDS, QUICK, folder=tmp_path)
        assert 0 < latency.wall_ms.p50 < 100
        assert not latency.cuda_graph
        assert latency.peak_memory_mib is not None
        assert latency.peak_memory_mib > 1
        with pytest.raises(DataError, match="'z' is not an input"):
            benchmark(runner, {"z": FEEDS["x"]}, QUICK)


def test_too_few_calls_are_named_as_that() -> None:
    """379 calls that are fewer than 400 are not an unknown median."""
    settings = Benchmark(warmup_s=0.01, min_s=0.02, max_s=0.1, min_samples=10_000, precision=0.5)
    latency = benchmark(Scripted([Timing(1.0)]), FEEDS, settings, watch=Watch())
    assert not latency.settled
    assert latency.unsettled.startswith(f"{latency.wall_ms.samples} calls were made within 0.1 s, fewer than the 10000")


def test_a_spread_that_hides_the_median_is_named_as_that() -> None:
    times = [Timing(float(value)) for value in np.random.default_rng(0).uniform(0.1, 2.0, 500)]
    settings = Benchmark(warmup_s=0.01, min_s=0.02, max_s=0.1, min_samples=5, precision=0.001)
    latency = benchmark(Scripted(times), FEEDS, settings, watch=Watch())
    assert "the median of wall time lies between" in latency.unsettled


def test_a_rule_for_p99_raises_the_calls_by_itself() -> None:
    settings = Benchmark(warmup_s=0.01, min_s=0.02, max_s=20, min_samples=20, precision=0.5)
    median = benchmark(Scripted([Timing(0.2)]), FEEDS, settings, watch=Watch())
    tail = benchmark(Scripted([Timing(0.2)]), FEEDS, settings, watch=Watch(), gated=(0.5, 0.99))
    assert median.wall_ms.samples < calls_needed(0.99) <= tail.wall_ms.samples
    assert (calls_needed(0.99), calls_needed(0.9)) == (459, 44)
    assert tail.settled
    assert 0.99 not in median.answers and 0.99 in tail.answers


def test_a_median_among_long_stretches_of_other_work_is_measured_until_it_has_a_bound(tmp_path: Path) -> None:
    """A stretch of slow calls as long as the whole measurement tells nothing; the calls go on until many were seen."""
    slow_and_fast = [Timing(value) for value in np.repeat([1.0, 3.0], 35)]
    settings = Benchmark(warmup_s=0.01, min_s=0.02, max_s=2.0, min_samples=80, precision=0.99)
    latency = benchmark(Scripted(slow_and_fast), FEEDS, settings, folder=tmp_path, watch=Watch())
    samples = np.load(tmp_path / "latency.npz")["wall_ms"]
    assert latency.settled
    assert len(samples) > 100
    assert math.isfinite(quantile_upper(samples, 0.5, 0.95))


def test_a_soak_comes_before_the_calls_that_count() -> None:
    settings = Benchmark(warmup_s=0.01, min_s=0.05, max_s=1.0, min_samples=10, precision=0.5, soak_s=0.3)
    runner = Scripted([Timing(1.0)])
    latency = benchmark(runner, FEEDS, settings, watch=Watch())
    assert latency.soak_s >= 0.3
    assert runner.calls > latency.wall_ms.samples + 100


def test_a_line_is_fitted_and_noise_is_not() -> None:
    random = np.random.default_rng(2)
    noise = 1 + 0.05 * random.random((200, 480))
    assert np.mean([fit_drift(row, 0.01).sure for row in noise]) <= 0.03
    rising = fit_drift(noise[0] * np.linspace(1, 1.3, 480), 0.05)
    assert rising.sure and rising.share == pytest.approx(0.26, abs=0.03)
    step = np.where(np.arange(480) < 240, 1.0, 1.4)
    assert fit_drift(noise[1] * step, 0.05).sure
    assert not fit_drift(np.ones(10)).sure


@pytest.mark.parametrize("place", [0.15, 0.3, 0.7, 0.85])
def test_a_step_is_seen_wherever_it_is_and_bursts_are_none(place: float) -> None:
    random = np.random.default_rng(4)
    noise = np.exp(random.normal(0, 0.03, (100, 1000)))
    later = np.arange(1000) >= 1000 * place
    for row in noise[:20]:
        up, down = fit_drift(row * np.where(later, 1.4, 1.0), 0.02), fit_drift(row * np.where(later, 1.0, 1.4), 0.02)
        assert up.sure and down.sure
        assert 0.2 < up.share < 0.45 and -0.45 < down.share < -0.2
    burst = np.abs(np.arange(1000) - 1000 * place) < 30
    assert np.mean([fit_drift(row * np.where(burst, 2.0, 1.0), 0.02).sure for row in noise]) <= 0.03
