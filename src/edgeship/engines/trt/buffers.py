"""Buffers of a TensorRT runner: allocated once for the profile's maximum, pinned on the host's side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.engines import cuda
from edgeship.errors import DataError, DeviceError, EngineError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Feeds

if TYPE_CHECKING:
    import tensorrt as trt

    from edgeship.engines import Array

Shape = tuple[int, ...]


@dataclass
class Slot:
    """One tensor's memory. ``address`` is what TensorRT is told: device memory, or host memory for shape tensors."""

    info: TensorInfo
    host: cuda.PinnedBuffer
    device: cuda.DeviceBuffer | None
    size_bytes: int

    @property
    def address(self) -> int:
        """What to give ``set_tensor_address``."""
        return self.host.pointer if self.device is None else self.device.pointer

    def fill(self, array: Array) -> None:
        """Copy an input into the pinned memory."""
        view = self.host.array(array.shape, array.dtype)
        np.copyto(view, array)

    def upload(self, count: int, stream: cuda.Stream) -> None:
        """Start the copy of ``count`` bytes to the device."""
        if self.device is not None:
            cuda.upload(self.device.pointer, self.host.pointer, count, stream)

    def download(self, count: int, stream: cuda.Stream) -> None:
        """Start the copy of ``count`` bytes from the device."""
        if self.device is not None:
            cuda.download(self.host.pointer, self.device.pointer, count, stream)

    def close(self) -> None:
        """Free both sides."""
        self.host.close()
        if self.device is not None:
            self.device.close()


def make_slot(info: TensorInfo, size_bytes: int, *, on_host: bool) -> Slot:
    """Memory for a tensor of at most ``size_bytes``. Raises DeviceError when there is not enough."""
    device = None if on_host else cuda.DeviceBuffer(size_bytes, f"the tensor {info.name!r}")
    try:
        return Slot(info, cuda.PinnedBuffer(size_bytes), device, size_bytes)
    except DeviceError:
        if device is not None:
            device.close()
        raise


def count_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of an array. Raises EngineError for a type that numpy has not."""
    return math.prod(shape) * item_bytes(dtype)


def item_bytes(dtype: str) -> int:
    """Bytes of one element. Raises EngineError for a type that numpy has not."""
    try:
        return int(np.dtype(dtype).itemsize)
    except TypeError:
        raise EngineError(
            f"the engine has an input or output of {dtype}, which numpy has not",
            expected="float32, float16, int8, uint8, int32, int64 or bool at the network's edge",
            do="cast it inside the model",
        ) from None


def output_allocator(trt: Any, slot: Slot, shapes: dict[str, Shape]) -> trt.IOutputAllocator:
    """A vendor allocator for an output whose shape depends on the data: gives the slot's memory, notes the shape."""

    class _Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output_async(self, *request: Any) -> int:
            """``request``: tensor name, current memory, size in bytes, alignment, stream."""
            if int(request[2]) > slot.size_bytes:
                return 0
            return slot.address

        def notify_shape(self, tensor_name: str, shape: trt.Dims) -> None:
            shapes[tensor_name] = tuple(shape)

    return _Allocator()


def require(done: bool, doing: str, said: str) -> None:
    """Raise DeviceError when a call of TensorRT's returned false."""
    if not done:
        raise DeviceError(f"{doing}: {said or 'TensorRT gave no reason'}")


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
