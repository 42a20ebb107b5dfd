"""PyTorch on CUDA: as baselines, and its events against ours around the same calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_models import images

from edgeship import engines
from edgeship.config import CUDA_BASELINES, Benchmark
from edgeship.engines import OpenOptions
from edgeship.prepare import baseline
from edgeship.trial.benchmark import benchmark

QUICK = Benchmark(warmup_s=0.2, min_s=0.3, max_s=5)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 64, 3, padding=1)]
    for _ in range(8):
        layers += [torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3, padding=1)]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


@pytest.mark.parametrize("name", [name for name in CUDA_BASELINES if not name.startswith("compile")])
def test_each_baseline_is_timed_and_agrees_with_eager(name: str) -> None:
    module = network()
    feeds = images(2)
    with torch.inference_mode():
        wanted = module(torch.from_numpy(feeds["images"])).numpy()
    with baseline.open_baseline(name, module, ("images",), "cuda:0") as runner:
        latency = benchmark(runner, feeds, QUICK)
        assert latency.device_ms is not None
        assert 0 < latency.device_ms.p50 <= latency.wall_ms.p50 * 1.02
        timer = runner.timer(feeds)
        timer()
        (found,) = timer.outputs().values()
    np.testing.assert_allclose(found, wanted, atol=3e-2 if "fp16" in name else 3e-3)
    assert next(module.parameters()).device.type == "cpu", "the user's module is not moved"


def test_our_events_agree_with_torchs_around_the_same_calls(fp32: Path) -> None:
    with engines.get("onnxruntime").open(fp32, OpenOptions(device="cuda:0", cuda_graph=True)) as runner:
        bound = runner.bound({"images": (8, 3, 64, 64)})
        bound.fill(images(8))
        bound.upload()
        stream = torch.cuda.ExternalStream(runner.stream)
        ours, theirs = [], []
        from edgeship.engines import cuda

        begin, end = cuda.Event(), cuda.Event()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for call in range(300):
            first.record(stream)
            begin.record(runner.device.stream)
            bound.run()
            end.record(runner.device.stream)
            last.record(stream)
            end.synchronize()
            last.synchronize()
            if call >= 50:
                ours.append(end.since(begin))
                theirs.append(first.elapsed_time(last))
    assert np.median(ours) == pytest.approx(np.median(theirs), rel=0.03)
