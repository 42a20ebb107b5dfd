"""Open onnxruntime sessions on CUDA: fixed buffers, one stream of our own, events, and onnxruntime's CUDA graph.

For each set of input shapes the buffers are allocated and bound once; a call copies in, runs and copies out in
stream order and waits once. Nothing is allocated in the loop.

onnxruntime keeps the plans of its convolutions for one set of input shapes: another set searches and compiles them
anew, and unloads the kernels that an earlier CUDA graph would replay (seen on an H100: ``cudaErrorLaunchFailure``).
A graph is therefore replayed only until the shapes change; when they come back, a new one is captured.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.feeds import batch_size
from edgeship.engines import OpenOptions, Timing, cuda
from edgeship.engines.checked_feeds import (
    Fitted,
    Shapes,
    alike,
    check_feeds,
    fitted_of,
    output_shapes,
    shapes_of,
)
from edgeship.engines.ort.session import (
    OutOfMemory,
    SessionRequest,
    failures,
    library,
    make_session,
    tensors,
    translated,
)
from edgeship.errors import DeviceError, EngineError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds

_GRAPHS = 16
"""CUDA graphs that one session captures, one at each change of the input shapes; later changes run without."""
_SHAPES = 8
"""Input shapes whose buffers are kept; those of one further shape come and go."""


def open_cuda(engine: Path, options: OpenOptions) -> CudaRunner:
    """Open an engine file on a CUDA device.

    Raises:
        DeviceError: No such device, no CUDA provider, or not enough memory.
        EngineError: onnxruntime refuses the file.
    """
    if options.nhwc:
        fused = _open(engine, options, fuse=True)
        try:
            if fused.runs():
                return fused
        except BaseException:
            fused.close()
            raise
        fused.close()  # cuDNN has no fused plan for one of the convolutions
    return _open(engine, options, fuse=False)


def _open(engine: Path, options: OpenOptions, *, fuse: bool) -> CudaRunner:
    index = cuda.use(options.device)
    stream = cuda.Stream()
    try:
        request = SessionRequest(stream=stream.handle, cuda_graph=options.cuda_graph, fuse=fuse)
        opened = make_session(engine, options, request)
        described = tensors(opened.session.get_inputs()), tensors(opened.session.get_outputs())
    except BaseException:
        stream.close()
        raise
    runner = CudaRunner(opened.session, described, _Device(options.device, index, stream), opened.cuda_graph)
    if options.cuda_graph and not opened.cuda_graph:
        runner.no_graph = "onnxruntime captures no graph of a model that has nodes on the CPU"
    return runner


class _Device:
    """Where a runner works."""

    def __init__(self, name: str, index: int, stream: cuda.Stream) -> None:
        self.name = name
        self.index = index
        self.stream = stream


class _Slot:
    """One tensor: a pinned host array and its device buffer."""

    def __init__(self, stack: ExitStack, info: TensorInfo, shape: tuple[int, ...]) -> None:
        kind = np.dtype(info.dtype)
        self.name, self.shape, self.dtype = info.name, shape, kind
        self.size_bytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        self.device = cuda.DeviceBuffer(self.size_bytes, f"{info.name!r} {kind} {list(shape)}")
        stack.callback(self.device.close)
        self._pinned = cuda.PinnedBuffer(self.size_bytes)
        stack.callback(self._pinned.close)
        self.host = self._pinned.array(shape, kind)
        self.host_pointer = self._pinned.pointer


class _Bound:
    """Buffers and I/O binding of one session for one set of input shapes.

    ``graph`` numbers onnxruntime's CUDA graph for these buffers; -1 runs without one.
    """

    graph = -1

    def __init__(self, runner: CudaRunner, shapes: Shapes) -> None:
        self._session, self._device, self._plans = runner.session, runner.device, runner.plans
        self._stack = ExitStack()
        wanted = output_shapes(runner.inputs, runner.outputs, shapes)
        self.fixed = wanted is not None
        try:
            self._inputs = [_Slot(self._stack, info, shapes[info.name]) for info in runner.inputs]
            self._outputs = [] if wanted is None else [_Slot(self._stack, i, wanted[i.name]) for i in runner.outputs]
            self._bind([info.name for info in runner.outputs])
        except BaseException:
            self._stack.close()
            raise

    def _bind(self, names: list[str]) -> None:
        index = self._device.index
        self._names = names
        self.binding = self._session.io_binding()
        for slot in self._inputs:
            self.binding.bind_input(slot.name, "cuda", index, slot.dtype, slot.shape, slot.device.pointer)
        for slot in self._outputs:
            self.binding.bind_output(slot.name, "cuda", index, slot.dtype, slot.shape, slot.device.pointer)

    def fill(self, feeds: Feeds) -> None:
        """Copy feeds into the pinned host arrays."""
        for slot in self._inputs:
            np.copyto(slot.host, feeds[slot.name])

    def upload(self) -> None:
        """Queue the inputs' copies to the device."""
        for slot in self._inputs:
            cuda.upload(slot.device.pointer, slot.host_pointer, slot.size_bytes, self._device.stream)

    def run(self) -> None:
        """Queue one inference: a graph launch where one was captured."""
        if self._plans.of is not self:
            self._plans.of = self
            self.graph = self._plans.next_graph() if self.fixed else -1
            self.options = library().RunOptions()
            self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            self.options.add_run_config_entry("gpu_graph_id", str(self.graph))
        if not self._outputs:
            # Sizes that depend on the data: onnxruntime allocates, and keeps a bound value of the last call's size.
            self.binding.clear_binding_outputs()
            for name in self._names:
                self.binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self.binding, self.options)

    def download(self) -> None:
        """Queue the outputs' copies to the host."""
        for slot in self._outputs:
            cuda.download(slot.host_pointer, slot.device.pointer, slot.size_bytes, self._device.stream)

    def results(self) -> dict[str, Array]:
        """Fresh arrays of what was downloaded."""
        if self._outputs:
            return {slot.name: slot.host.copy() for slot in self._outputs}
        return dict(zip(self._names, self.binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """Free the buffers."""
        self.binding = None
        self._stack.close()


class _Plans:
    """The input shapes that the session has plans for, and how many CUDA graphs it may still capture."""

    def __init__(self, graphs: int) -> None:
        self.of: _Bound | None = None
        self._left = graphs
        self._last = 0

    def next_graph(self) -> int:
        """The number of the next CUDA graph; -1 when no more are captured."""
        if not self._left:
            return -1
        self._left -= 1
        self._last += 1
        return self._last


class CudaRunner:
    """An open session on the CUDA provider. ``cuda_graph``: whether it replays CUDA graphs; ``no_graph``: why not."""

    no_graph = ""

    def __init__(
        self,
        session: Any,
        described: tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]],
        device: _Device,
        cuda_graph: bool,
    ) -> None:
        self.session = session
        self.inputs, self.outputs = described
        self.device = device
        self.cuda_graph = cuda_graph
        self.plans = _Plans(_GRAPHS if cuda_graph else 0)
        self._bounds: dict[tuple[tuple[int, ...], ...], _Bound] = {}
        self._other: tuple[tuple[tuple[int, ...], ...], _Bound] | None = None
        self._fitted: Fitted = []
        self._last: _Bound | None = None

    @property
    def stream(self) -> int:
        """The ``cudaStream_t`` it works in, as an integer."""
        return self.device.stream.handle

    def runs(self) -> bool:
        """Whether one inference with every dynamic axis at 1 works; False says that a kernel could not be planned."""
        shapes = {info.name: tuple(axis if isinstance(axis, int) else 1 for axis in info.shape) for info in self.inputs}
        try:
            self._tried(shapes).close()
        except OutOfMemory:
            raise
        except EngineError:
            return False
        return True

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, as fresh arrays.

        Raises:
            DataError: Feeds that do not fit.
            DeviceError: Out of memory, with the batch that fits; or a failure in the stream.
            EngineError: onnxruntime refuses the run.
        """
        bound = self._last
        if bound is None or not alike(feeds, self._fitted):
            feeds = check_feeds(feeds, self.inputs)
            bound = self.bound(shapes_of(feeds))
            self._fitted, self._last = fitted_of(feeds), bound
        bound.fill(feeds)
        try:
            bound.upload()
            bound.run()
            bound.download()
        except failures():
            with translated("running the engine", self.device.name):
                raise
        self.device.stream.synchronize()
        return bound.results()

    def timer(self, feeds: Feeds) -> CudaTimer:
        """Bind ``feeds`` once. Raises as :meth:`infer` does."""
        ready = check_feeds(feeds, self.inputs)
        bound = self.bound(shapes_of(ready))
        bound.fill(ready)
        return CudaTimer(bound, self)

    def why_no_graph(self, bound: _Bound) -> str:
        """Why runs of ``bound`` replay no CUDA graph; empty when they do."""
        if not self.cuda_graph or bound.graph > 0:
            return self.no_graph
        if not bound.fixed:
            return "the size of an output depends on the data"
        return f"the input shapes changed more than {_GRAPHS} times, and no more graphs are captured"

    def bound(self, shapes: Shapes) -> _Bound:
        """The buffers for these shapes, made and warmed up at their first use. Raises DeviceError."""
        key = tuple(shapes[info.name] for info in self.inputs)
        if key in self._bounds:
            return self._bounds[key]
        if self._other is not None and self._other[0] == key:
            return self._other[1]
        cuda.use(self.device.name)
        full = len(self._bounds) >= _SHAPES
        if full and self._other is not None:
            self._other[1].close()
            self._other = self._last = None
        made = self._made(shapes)
        if full:
            self._other = (key, made)
        else:
            self._bounds[key] = made
        return made

    def _made(self, shapes: Shapes) -> _Bound:
        try:
            return self._tried(shapes)
        except DeviceError as error:
            if not isinstance(error, OutOfMemory) and "out of device memory" not in error.found:
                raise
            raise self._too_large(shapes, error) from error

    def _tried(self, shapes: Shapes) -> _Bound:
        made = _Bound(self, shapes)
        try:
            with translated(f"running the engine with {_text(shapes)}", self.device.name):
                made.upload()
                made.run()
            self.device.stream.synchronize()
        except BaseException:
            made.close()
            raise
        return made

    def _too_large(self, shapes: Shapes, error: DeviceError) -> DeviceError:
        """The error with the batch that fits, found by halving."""
        batch = batch_size(self.inputs, shapes)
        tried = batch // 2
        loose = {info.name for info in self.inputs if info.shape and isinstance(info.shape[0], str)}
        while loose and tried >= 1:
            smaller = {name: (tried, *shape[1:]) if name in loose else shape for name, shape in shapes.items()}
            try:
                self._tried(smaller).close()
            except EngineError:
                tried //= 2
                continue
            return DeviceError(f"batch {batch}: {error.found}; batch {tried} fits", do=f"use batch {tried} or smaller")
        return DeviceError(f"batch {batch}: {error.found}; no smaller batch fits either", do="free device memory")

    def close(self) -> None:
        """Free the session, the buffers and the stream."""
        self.session = None
        for bound in [*self._bounds.values(), *([self._other[1]] if self._other else [])]:
            bound.binding = None
            bound._session = None
            bound.close()
        self._bounds.clear()
        self._other = self._last = self.plans.of = None
        self.device.stream.close()

    def __enter__(self) -> CudaRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class CudaTimer:
    """One bound inference: device time by events around the run, transfers by events around the copies."""

    def __init__(self, bound: _Bound, runner: CudaRunner) -> None:
        self._bound, self._runner, self._stream = bound, runner, runner.device.stream
        self._start, self._uploaded, self._ran, self._end = (cuda.Event() for _ in range(4))

    def __call__(self) -> Timing:
        bound, stream = self._bound, self._stream
        begin = time.perf_counter_ns()
        self._start.record(stream)
        bound.upload()
        self._uploaded.record(stream)
        bound.run()
        self._ran.record(stream)
        bound.download()
        self._end.record(stream)
        self._end.synchronize()
        wall = (time.perf_counter_ns() - begin) / 1e6
        return Timing(
            wall_ms=wall,
            device_ms=self._ran.since(self._uploaded),
            upload_ms=self._uploaded.since(self._start),
            download_ms=self._end.since(self._ran),
        )

    @property
    def cuda_graph(self) -> bool:
        """Whether the calls replay a CUDA graph."""
        return self._bound.graph > 0

    @property
    def no_graph(self) -> str:
        """Why runs replay no CUDA graph."""
        return self._runner.why_no_graph(self._bound)

    def outputs(self) -> dict[str, Array]:
        """Copies of the last call's outputs."""
        return self._bound.results()


def _text(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
