"""The counting that runs on the GPU, here on torch's CPU tensors: equal to numpy's, bin by bin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from calibration_support import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeship.errors import DeviceError
from edgeship.prepare.activations import Observer
from edgeship.prepare.activations_cuda import DeviceHistograms, NotFiniteTensor, check
from edgeship.prepare.counting import Scratch
from edgeship.prepare.histogram import Histogram
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.quantized_tensors import find_tensors

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def assert_same(found: Histogram, wanted: Histogram) -> None:
    assert (found.low, found.high, found.exponent) == (wanted.low, wanted.high, wanted.exponent)
    assert found.total == wanted.total
    np.testing.assert_array_equal(found.signed(), wanted.signed())


def both(batches: list[dict[str, np.ndarray]]) -> tuple[dict[str, Histogram], dict[str, Histogram]]:
    names = list(batches[0])
    device = DeviceHistograms(names, "cpu")
    host = {name: Histogram() for name in names}
    for batch in batches:
        device.add({name: torch.from_numpy(values.copy()) for name, values in batch.items()})
        for name, values in batch.items():
            host[name].add(values, Scratch())
    return device.histograms(), host


def test_ranges_that_grow_and_tensors_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    batches = []
    for step in range(6):
        normal = rng.standard_normal((4, 8, 9, 7)).astype(np.float32) * 2.0 ** (step % 4)
        batches.append(
            {
                "signed": normal,
                "relu": np.maximum(normal, 0),
                "negative": -np.abs(normal) * np.float32(1e-6),
                "half": normal.astype(np.float16),
                "dead at first": np.maximum(normal, 0) * np.float32(step >= 3),
                "dead": np.zeros((3, 2), np.float32),
                "power of two": np.array([2.0**step, -(2.0**step), -0.0], np.float32),
                "tiny": np.array([1e-38, -1e-42, 0.0], np.float32),
                "empty": np.empty((0, 4), np.float32),
            }
        )
    found, wanted = both(batches)
    for name, histogram in wanted.items():
        assert_same(found[name], histogram)
    assert found["relu"].exponent is not None
    assert found["dead"].total == 36


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(FLOATS, min_size=1, max_size=20), min_size=1, max_size=5))
def test_any_values_in_any_order(rows: list[list[float]]) -> None:
    batches = [{"a": np.array(row, np.float32), "b": np.array(row[::-1], np.float32) / 3} for row in rows]
    found, wanted = both(batches)
    for name, histogram in wanted.items():
        assert_same(found[name], histogram)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_names_the_tensor_and_counts_nothing(bad: float) -> None:
    device = DeviceHistograms(["good", "bad"], "cpu")
    device.add({"good": torch.ones(4), "bad": torch.ones(4)})
    with pytest.raises(NotFiniteTensor, match="bad"):
        device.add({"good": torch.ones(4) * 3, "bad": torch.tensor([1.0, bad])})
    assert {name: entry.total for name, entry in device.histograms().items()} == {"good": 4, "bad": 4}
    assert device.histograms()["good"].high == 1.0


def test_a_device_that_is_not_there_is_refused() -> None:
    proto = infer(tiny("residual"))
    with pytest.raises(DeviceError, match="cuda:0"):
        Observer(proto, find_tensors(proto).observed, device="cuda:0")
    with pytest.raises(DeviceError):
        check("cuda:0")
    with pytest.raises(DeviceError, match="npu"):
        Observer(proto, find_tensors(proto).observed, device="npu")
