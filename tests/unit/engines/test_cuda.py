"""The CUDA layer where there is no driver: it imports, and every way in says so in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.engines import cuda
from edgeship.errors import DeviceError
from processes import python


def _driver() -> bool:
    return int(cuda.runtime().cudaGetDeviceCount()[0]) == 0


needs_no_driver = pytest.mark.skipif(_driver(), reason="this machine has a CUDA device; tests/gpu covers it")


@needs_no_driver
@pytest.mark.parametrize(
    "call",
    [
        cuda.device_count,
        cuda.versions,
        cuda.Stream,
        cuda.Event,
        cuda.memory,
        cuda.synchronize,
        lambda: cuda.use("cuda:0"),
        lambda: cuda.properties(0),
        lambda: cuda.DeviceBuffer(1 << 20),
        lambda: cuda.PinnedBuffer(1 << 20),
    ],
)
def test_without_a_driver_each_entry_says_so(call) -> None:
    with pytest.raises(DeviceError, match="no CUDA driver is installed here") as caught:
        call()
    assert "device = 'cpu'" in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "gpu:0", "cuda:x", "cuda:-1", ""])
def test_what_is_no_cuda_device_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="is not a CUDA device"):
        cuda.index_of(device)


def test_a_failed_status_names_what_was_done_and_cudas_words() -> None:
    status = cuda.runtime().cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(DeviceError, match=r"copying: CUDA failed: .*cudaErrorIllegalAddress") as caught:
        cuda.check((status,), "copying")
    assert "lost its CUDA context" in str(caught.value)


def test_out_of_memory_advises_a_smaller_batch() -> None:
    status = cuda.runtime().cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DeviceError, match="smaller batch"):
        cuda.check((status, 0), "allocating 8 bytes")


def test_a_driver_older_than_the_runtime_is_told_with_both_versions() -> None:
    text = str(cuda._driver_failure("12.4", "13.0"))
    assert "the NVIDIA driver supports CUDA 12.4, older than the CUDA runtime 13.0" in text
    assert "pip install 'cuda-bindings==12.*'" in text


def test_a_good_status_gives_the_values() -> None:
    good = cuda.runtime().cudaError_t.cudaSuccess
    assert cuda.check((good,), "nothing") is None
    assert cuda.check((good, 7), "one") == 7
    assert cuda.check((good, 7, 8), "two") == (7, 8)


def test_a_pinned_view_beyond_the_buffer_is_refused() -> None:
    host = np.zeros(8, np.uint8)
    buffer = object.__new__(cuda.PinnedBuffer)
    buffer.size_bytes, buffer.pointer = host.nbytes, host.ctypes.data
    view = buffer.array((2,), np.float32)
    view[:] = 1.0
    assert host.view(np.float32).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="needs 12 bytes, the buffer has 8"):
        buffer.array((3,), np.float32)


def test_importing_the_module_loads_no_vendor_library() -> None:
    code = "import sys, edgeship.engines.cuda; print('cuda.bindings' in sys.modules)"
    assert python("-c", code, check=True).stdout.strip() == "False"
