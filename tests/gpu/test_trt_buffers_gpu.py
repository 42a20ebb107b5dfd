"""The memory that the TensorRT engines use, on a device: TensorRT itself is not needed for it."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.engines import cuda
from edgeship.engines.trt.buffers import Uploader, make_slot
from edgeship.errors import DataError, DeviceError
from edgeship.results import TensorInfo

IMAGES = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float32")
SIZES = TensorInfo(name="sizes", shape=("batch", 2), dtype="int64")


def on_device(pointer: int, like: np.ndarray, stream: cuda.Stream) -> np.ndarray:
    """What lies at a device address."""
    host = cuda.PinnedBuffer(like.nbytes)
    cuda.download(host.pointer, pointer, like.nbytes, stream)
    stream.synchronize()
    values = host.array(like.shape, like.dtype).copy()
    host.close()
    return values


def feeds(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "images": random.standard_normal((rows, 3, 8, 8)).astype(np.float32),
        "sizes": random.integers(0, 1000, (rows, 2)),
    }


def test_a_calibration_batch_lies_on_the_device_and_its_buffer_grows_once(stream) -> None:
    upload = Uploader([IMAGES, SIZES])
    used = []
    for seed, rows in enumerate((2, 8, 8, 3)):
        batch = feeds(rows, seed)
        addresses = upload(batch)
        assert list(addresses) == ["images", "sizes"]
        for name, array in batch.items():
            np.testing.assert_array_equal(on_device(addresses[name], array, stream), array)
        used.append(addresses)
    assert used[1] == used[2] == used[3]


def test_calibration_frames_of_a_wrong_type_or_without_an_input_are_refused(stream) -> None:
    upload = Uploader([IMAGES, SIZES])
    batch = feeds(2, 0)
    with pytest.raises(DataError, match="'images' is float64"):
        upload(batch | {"images": batch["images"].astype(np.float64)})
    with pytest.raises(DataError, match="'sizes' is missing"):
        upload({"images": batch["images"]})


def test_a_runners_slot_copies_up_and_down(stream) -> None:
    values = feeds(4, 1)["images"]
    slot = make_slot(IMAGES, values.nbytes, on_host=False)
    slot.fill(values)
    slot.upload(values.nbytes, stream)
    np.testing.assert_array_equal(on_device(slot.address, values, stream), values)
    slot.fill(np.zeros_like(values))
    slot.download(values.nbytes, stream)
    stream.synchronize()
    np.testing.assert_array_equal(slot.host.array(values.shape, values.dtype), values)
    slot.close()


def test_a_slot_of_a_shape_tensor_stays_on_the_host(stream) -> None:
    slot = make_slot(SIZES, 64, on_host=True)
    assert slot.address == slot.host.pointer
    slot.upload(64, stream)
    slot.download(64, stream)
    stream.synchronize()
    slot.close()


def test_a_slot_that_does_not_fit_names_its_tensor(stream) -> None:
    info = TensorInfo(name="heatmap", shape=(1,), dtype="float32")
    held = []
    try:
        with pytest.raises(DeviceError, match="out of device memory: the tensor 'heatmap' needs"):
            for _ in range(2):
                free, _ = cuda.memory()
                held.append(cuda.DeviceBuffer(free - (64 << 20)))
                held.append(make_slot(info, 256 << 20, on_host=False))
    finally:
        for item in held:
            item.close()
