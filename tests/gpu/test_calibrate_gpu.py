"""Calibration on the GPU: the same histograms from the same values, the same ranges from the same frames, and fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_models import images

from edgeship.errors import ModelError
from edgeship.prepare import calibration_cache, graph
from edgeship.prepare.activations import Observer
from edgeship.prepare.activations_cuda import DeviceHistograms
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.counting import Scratch
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.histogram import Histogram
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.quantized_tensors import find_tensors

DEVICE = "cuda:0"


def batches(count: int = 6, rows: int = 8) -> list[tuple[list[str], dict[str, np.ndarray]]]:
    """Batches that grow brighter, so that ranges grow."""
    made = []
    for number in range(count):
        feeds = {name: array * np.float32(1 + number) for name, array in images(rows, seed=number).items()}
        made.append(([f"{number}.{row}" for row in range(rows)], feeds))
    return made


def test_counts_on_the_device_are_numpys() -> None:
    """Bin by bin, for signed, half-zero, half-precision and dead tensors."""
    random = np.random.default_rng(0)
    names = ["signed", "relu", "half", "dead", "large"]
    device, host = DeviceHistograms(names, DEVICE), {name: Histogram() for name in names}
    for step in range(4):
        normal = random.standard_normal((8, 16, 33, 31)).astype(np.float32) * 3.0**step
        values = {
            "signed": normal,
            "relu": np.maximum(normal, 0),
            "half": normal.astype(np.float16),
            "dead": np.zeros(1000, np.float32),
            "large": random.laplace(size=3_000_000).astype(np.float32),
        }
        device.add({name: torch.from_numpy(array).to(DEVICE) for name, array in values.items()})
        for name, array in values.items():
            host[name].add(array, Scratch())
    found = device.histograms()
    for name in names:
        assert (found[name].low, found[name].high) == (host[name].low, host[name].high), name
        assert (found[name].exponent, found[name].total) == (host[name].exponent, host[name].total), name
        np.testing.assert_array_equal(found[name].signed(), host[name].signed(), err_msg=name)


def observed(path: Path, device: str) -> dict[str, Histogram]:
    proto = infer(graph.load_onnx(path))
    observer = Observer(proto, find_tensors(proto).observed, device=device)
    seen = sum(len(ids) for ids, _ in observer.observe(iter(batches())))
    assert seen == 48
    return observer.histograms()


def test_every_tensors_histogram_is_nearly_the_cpus(fp32: Path) -> None:
    """The forward passes round differently; few values cross into a neighbouring bin."""
    found, wanted = observed(fp32, DEVICE), observed(fp32, "cpu")
    assert list(found) == list(wanted)
    assert len(found) >= 8
    for name, histogram in wanted.items():
        mine = found[name]
        assert mine.total == histogram.total, name
        assert mine.low == pytest.approx(histogram.low, rel=1e-3, abs=1e-5), name
        assert mine.high == pytest.approx(histogram.high, rel=1e-3, abs=1e-5), name
        assert mine.exponent == histogram.exponent, name
        moved = np.abs(np.cumsum(mine.signed() - histogram.signed())).sum()
        assert moved <= 0.1 * histogram.total, name
    np.testing.assert_array_equal(found["images"].signed(), wanted["images"].signed())


def test_ranges_by_every_method_are_the_cpus(fp32: Path, tmp_path: Path) -> None:
    read = {}
    for device in (DEVICE, "cpu"):
        out = tmp_path / device.replace(":", "") / "calib.cache"
        out.parent.mkdir()
        done = calibrate(fp32, Batches(batches()), out, CalibrateOptions(method="mse", device=device))
        read[device] = calibration_cache.load(out, calibration_cache.Expected(graph_sha256=done.graph_sha256))
    for name, entry in read["cpu"].ranges.items():
        mine = read[DEVICE].ranges[name]
        width = 2 * max(abs(entry.low), abs(entry.high)) / 4096
        for method, amax in entry.amax.items():
            assert mine.amax[method] == pytest.approx(amax, abs=32 * width), (name, method)
        assert mine.amax["minmax"] == pytest.approx(entry.amax["minmax"], rel=1e-3), name


def test_not_finite_names_tensor_and_frame(fp32: Path) -> None:
    proto = infer(graph.load_onnx(fp32))
    observer = Observer(proto, find_tensors(proto).observed, device=DEVICE)
    ids, feeds = batches(1)[0]
    feeds["images"][5] = 3e38
    with pytest.raises(ModelError, match=r"0\.5"):
        list(observer.observe(iter([(ids, feeds)])))


def test_memory_does_not_grow_with_the_batches(fp32: Path) -> None:
    proto = infer(graph.load_onnx(fp32))
    observer = Observer(proto, find_tensors(proto).observed, device=DEVICE)
    used = []
    for _ in range(6):
        list(observer.observe(iter(batches(8))))
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used.append(total - free)
    assert used[-1] <= used[2] + (64 << 20)
