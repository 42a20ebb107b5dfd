"""Streams, events, buffers and graphs on a real device."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.engines import cuda
from edgeship.errors import DeviceError


def test_the_device_and_the_versions_are_told() -> None:
    found = cuda.properties(cuda.index_of("cuda:0"))
    assert found.name.startswith("NVIDIA")
    assert float(found.compute_capability) >= 5
    assert found.memory_bytes > 1 << 30
    assert found.bus_id.count(":") == 2
    versions = cuda.versions()
    assert tuple(map(int, versions.driver.split("."))) >= (12, 0)


def test_a_device_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(DeviceError, match=r"no device 'cuda:99' here") as caught:
        cuda.use("cuda:99")
    assert "'cuda:0' (NVIDIA" in str(caught.value)


def test_what_goes_up_comes_down(stream) -> None:
    values = np.random.default_rng(0).standard_normal((1000, 17)).astype(np.float32)
    up, down, device = (
        cuda.PinnedBuffer(values.nbytes),
        cuda.PinnedBuffer(values.nbytes),
        cuda.DeviceBuffer(values.nbytes),
    )
    np.copyto(up.array(values.shape, values.dtype), values)
    cuda.upload(device.pointer, up.pointer, values.nbytes, stream)
    cuda.download(down.pointer, device.pointer, values.nbytes, stream)
    stream.synchronize()
    np.testing.assert_array_equal(down.array(values.shape, values.dtype), values)
    for buffer in (up, down, device):
        buffer.close()
        buffer.close()


def test_events_measure_a_copy_as_torch_does(stream) -> None:
    import torch

    size = 256 << 20
    host, device = cuda.PinnedBuffer(size), cuda.DeviceBuffer(size)
    ours, theirs = [], []
    start, end = cuda.Event(), cuda.Event()
    torch_stream = torch.cuda.ExternalStream(stream.handle)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(10):
        first.record(torch_stream)
        start.record(stream)
        cuda.upload(device.pointer, host.pointer, size, stream)
        end.record(stream)
        last.record(torch_stream)
        end.synchronize()
        last.synchronize()
        ours.append(end.since(start))
        theirs.append(first.elapsed_time(last))
    assert np.median(ours) == pytest.approx(np.median(theirs), rel=0.03)
    device.close()
    host.close()


def test_a_captured_graph_runs_at_each_launch_and_not_before(stream) -> None:
    values = np.arange(256, dtype=np.int32)
    up, down, device = cuda.PinnedBuffer(1024), cuda.PinnedBuffer(1024), cuda.DeviceBuffer(1024)
    source, target = up.array((256,), np.int32), down.array((256,), np.int32)
    source[:], target[:] = values, -1
    with cuda.capture(stream) as graph:
        cuda.upload(device.pointer, up.pointer, 1024, stream)
        cuda.download(down.pointer, device.pointer, 1024, stream)
    stream.synchronize()
    assert target[0] == -1
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(target, values)
    source[:] = 7
    graph.launch(stream)
    stream.synchronize()
    assert set(target) == {7}
    graph.close()


def test_what_cannot_be_captured_is_an_error_and_the_stream_lives_on(stream) -> None:
    with pytest.raises(DeviceError), cuda.capture(stream):
        stream.synchronize()
    stream.synchronize()


def test_a_capture_that_failed_leaves_a_graph_that_cannot_be_launched(stream) -> None:
    kept = []
    with pytest.raises(DeviceError), cuda.capture(stream) as graph:
        kept.append(graph)
        stream.synchronize()
    with pytest.raises(DeviceError, match="its capture did not end"):
        kept[0].launch(stream)


def test_the_device_is_waited_for_and_an_event_goes_back(stream) -> None:
    device, host = cuda.DeviceBuffer(64 << 20), cuda.PinnedBuffer(64 << 20)
    start, end = cuda.Event(), cuda.Event()
    start.record(stream)
    cuda.upload(device.pointer, host.pointer, 64 << 20, stream)
    end.record(stream)
    cuda.synchronize()
    assert end.since(start) > 0
    for held in (start, end, device, host):
        held.close()


def test_an_array_larger_than_its_pinned_memory() -> None:
    cuda.use("cuda:0")
    host = cuda.PinnedBuffer(16)
    with pytest.raises(ValueError, match="needs 20 bytes, the buffer has 16"):
        host.array((5,), np.int32)
    host.close()


def test_out_of_memory_says_what_was_asked_and_what_is_free() -> None:
    cuda.use("cuda:0")
    _, total = cuda.memory()
    with pytest.raises(
        DeviceError, match=r"out of device memory: the activations needs .* MiB, .* MiB of .* MiB are free"
    ):
        cuda.DeviceBuffer(2 * total, "the activations")
    small = cuda.DeviceBuffer(1024)
    small.close()


def test_memory_goes_back() -> None:
    cuda.use("cuda:0")
    before, _ = cuda.memory()
    held = [cuda.DeviceBuffer(64 << 20) for _ in range(8)]
    assert cuda.memory()[0] < before - (400 << 20)
    for buffer in held:
        buffer.close()
    assert cuda.memory()[0] >= before - (16 << 20)
