"""Calibration batches on the device, for TensorRT 10's implicit calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.engines import cuda
from edgeship.errors import DataError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Feeds
    from edgeship.engines._trt_implicit import Upload


def uploader(inputs: Sequence[TensorInfo]) -> Upload:
    """A function that copies a batch to the device; its buffers grow once and are reused."""
    buffers: dict[str, tuple[cuda.DeviceBuffer, cuda.PinnedBuffer]] = {}
    stream = cuda.Stream()
    dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in inputs}

    def upload(feeds: Feeds) -> dict[str, int]:
        for name, dtype in dtypes.items():
            array = feeds.get(name)
            if array is None or array.dtype != dtype:
                found = "is missing" if array is None else f"is {array.dtype}"
                raise DataError(f"calibration frames: {name!r} {found}", expected=f"{name!r} as {dtype}")
            if name not in buffers or buffers[name][0].size_bytes < array.nbytes:
                buffers[name] = (cuda.DeviceBuffer(array.nbytes, "calibration"), cuda.PinnedBuffer(array.nbytes))
            device, pinned = buffers[name]
            np.copyto(pinned.array(array.shape, array.dtype), array)
            cuda.upload(device.pointer, pinned.pointer, array.nbytes, stream)
        stream.synchronize()
        return {name: buffers[name][0].pointer for name in dtypes}

    return upload
