"""Calibration batches on the device, for TensorRT 10's implicit calibrator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from edgeship.engines import cuda
from edgeship.errors import DataError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Feeds


class Uploader:
    """Copies batches to the current device. One batch's buffers are made once and serve all that are no larger."""

    def __init__(self, inputs: Sequence[TensorInfo]) -> None:
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in inputs}
        self._buffers: dict[str, tuple[cuda.DeviceBuffer, cuda.PinnedBuffer]] = {}
        self._stack = ExitStack()
        self._stream = cuda.Stream()
        self._stack.callback(self._stream.close)

    def __call__(self, feeds: Feeds) -> dict[str, int]:
        """The address of each input's buffer. Raises DataError for a feed that does not fit, DeviceError."""
        for name, dtype in self._dtypes.items():
            array = feeds.get(name)
            if array is None or array.dtype != dtype:
                found = "is missing" if array is None else f"is {array.dtype}"
                raise DataError(f"calibration frames: {name!r} {found}", expected=f"{name!r} as {dtype}")
            device, pinned = self._buffers_for(name, array.nbytes)
            np.copyto(pinned.array(array.shape, array.dtype), array)
            cuda.upload(device.pointer, pinned.pointer, array.nbytes, self._stream)
        self._stream.synchronize()
        return {name: self._buffers[name][0].pointer for name in self._dtypes}

    def _buffers_for(self, name: str, size_bytes: int) -> tuple[cuda.DeviceBuffer, cuda.PinnedBuffer]:
        kept = self._buffers.get(name)
        if kept is not None and kept[0].size_bytes >= size_bytes:
            return kept
        for old in kept or ():
            old.close()
        device = cuda.DeviceBuffer(size_bytes, "calibration")
        self._stack.callback(device.close)
        pinned = cuda.PinnedBuffer(size_bytes)
        self._stack.callback(pinned.close)
        self._buffers[name] = (device, pinned)
        return device, pinned

    def close(self) -> None:
        """Free the buffers and the stream."""
        self._stack.close()
