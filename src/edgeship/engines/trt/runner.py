"""An open TensorRT engine: buffers for the profile's maximum, outputs by name and by the shape the context reports."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.engines import OpenOptions, Timing, cuda
from edgeship.engines.trt import audit
from edgeship.engines.trt.buffers import Shape, Slot, count_bytes, item_bytes, make_slot, output_allocator, require
from edgeship.engines.trt.flavour import Flavour, dtype_name, said
from edgeship.engines.trt.open import Opened, open_plan
from edgeship.errors import DataError, DeviceError, EngineError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds

GRAPH_TOLERANCE = 1e-2
"""Largest difference between a CUDA graph's result and the plain one, relative to the output's largest value."""


class TrtRunner:
    """An open engine of either flavour, on optimization profile 0.

    With ``cuda_graph`` an inference is captured after a plain one of the same shapes, and later calls replay the
    graph until a shape changes. ``no_graph`` says why an engine that was to be captured runs without.

    Raises:
        EngineMismatch, ArtifactError, DeviceError, EngineError: As :func:`open_plan` does.
    """

    def __init__(self, flavour: Flavour, path: Path, options: OpenOptions) -> None:
        self._flavour = flavour
        self.device = options.device
        self._opened: Opened | None = open_plan(flavour, path, options)
        self._slots: dict[str, Slot] = {}
        self._stream: cuda.Stream | None = None
        self._context: Any = None
        self._graph: cuda.Graph | None = None
        try:
            self._prepare(options)
        except BaseException:
            self.close()
            raise

    def _prepare(self, options: OpenOptions) -> None:
        opened = self._require_open()
        engine = opened.engine
        self.cuda_graph = options.cuda_graph
        self.no_graph = ""
        self._called = False
        self._stream = cuda.Stream()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise DeviceError(
                f"no execution context: {said(opened.log) or 'too little device memory'}",
                do="free device memory (nvidia-smi lists who holds it), or build with a smaller largest batch",
            )
        self.inputs, self.outputs = describe(self._flavour, engine)
        self._ranges: dict[str, tuple[Shape, Shape]] = {}
        self._given: dict[str, Shape] = {}
        self._data_shapes: dict[str, Shape] = {}
        self._allocators: list[Any] = []
        self._allocate(options.max_batch)

    def _require_open(self) -> Opened:
        if self._opened is None:
            raise EngineError("the engine is closed", do="open it again")
        return self._opened

    def _allocate(self, max_batch: int | None) -> None:
        """Input buffers for the largest shapes, then output buffers for what those shapes give.

        An input whose values are shapes gets its largest values first: output sizes follow from them.
        """
        engine, trt = self._require_open().engine, self._flavour.trt
        for info in self.inputs:
            low, _best, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(info.name, 0))
            if max_batch is not None and info.shape and isinstance(info.shape[0], str):
                high = (max(low[0], min(max_batch, high[0])), *high[1:])
            self._ranges[info.name] = (low, high)
            on_host = engine.get_tensor_location(info.name) == trt.TensorLocation.HOST
            slot = self._slots[info.name] = make_slot(info, count_bytes(high, info.dtype), on_host=on_host)
            if engine.is_shape_inference_io(info.name):
                values = engine.get_tensor_profile_values(0, info.name)
                require(bool(values), f"reading the profile's values of {info.name!r}", said(self._require_open().log))
                slot.fill(np.array(values[2], info.dtype).reshape(high))
                self.no_graph = f"the values of {info.name!r} are shapes, which a graph would keep"
            self._context.set_tensor_address(info.name, slot.address)
        self._set_shapes({name: high for name, (_low, high) in self._ranges.items()})
        by_value = bool(self.no_graph)
        for info in self.outputs:
            shape = tuple(self._context.get_tensor_shape(info.name))
            unknown = any(size < 0 for size in shape)
            size = 0 if unknown else count_bytes(shape, info.dtype)
            if unknown or by_value:
                size = max(size, int(self._context.get_max_output_size(info.name)))
            on_host = engine.get_tensor_location(info.name) == trt.TensorLocation.HOST
            slot = self._slots[info.name] = make_slot(info, max(size, item_bytes(info.dtype)), on_host=on_host)
            if unknown:
                allocator = output_allocator(trt, slot, self._data_shapes)
                self._allocators.append(allocator)
                self._context.set_output_allocator(info.name, allocator)
                self.no_graph = f"the size of {info.name!r} depends on the data"
            else:
                self._context.set_tensor_address(info.name, slot.address)

    def _set_shapes(self, shapes: dict[str, Shape]) -> bool:
        """Tell the context shapes that it does not have yet; a graph of the old ones is let go. Whether any is new."""
        changed = {name: shape for name, shape in shapes.items() if self._given.get(name) != shape}
        if changed:
            self._drop_graph()
        for name, shape in changed.items():
            done = self._context.set_input_shape(name, shape)
            require(done, f"setting {name!r} to {shape}", said(self._require_open().log))
            self._given[name] = shape
        return bool(changed)

    def _check(self, feeds: Feeds) -> dict[str, Array]:
        """Feeds as contiguous arrays. Raises DataError with every wrong name, dtype and shape at once."""
        problems = [f"{name!r} is not an input" for name in feeds if name not in self._ranges]
        for info in self.inputs:
            low, high = self._ranges[info.name]
            problems += check_feed(info, feeds.get(info.name), low, high)
        if problems:
            wanted = ", ".join(f"{info.name!r} {info.dtype} {_span(*self._ranges[info.name])}" for info in self.inputs)
            raise DataError(
                f"the feeds do not fit the engine: {'; '.join(problems)}",
                expected=wanted,
                do="send what the profile holds, or build with a range that contains it",
            )
        return {info.name: np.asarray(feeds[info.name], order="C") for info in self.inputs}

    def bind(self, feeds: Feeds) -> bool:
        """Check the feeds, set their shapes and fill the pinned memory. Whether a shape is new."""
        ready = self._check(feeds)
        changed = self._set_shapes({name: array.shape for name, array in ready.items()})
        for name, array in ready.items():
            self._slots[name].fill(array)
        return changed

    def upload(self) -> None:
        """Start the copies of the bound inputs."""
        for info in self.inputs:
            self._slots[info.name].upload(count_bytes(self._given[info.name], info.dtype), self.stream)

    def enqueue(self) -> None:
        """Start the inference. Raises DeviceError when TensorRT refuses."""
        done = self._context.execute_async_v3(self.stream.handle)
        require(done, "the inference did not start", said(self._require_open().log))

    def start(self) -> None:
        """Start the inference by its CUDA graph where there is one, else by :meth:`enqueue`."""
        if self._graph is not None:
            self._graph.launch(self.stream)
        else:
            self.enqueue()

    @property
    def captured(self) -> bool:
        """Whether the bound inference has a CUDA graph."""
        return self._graph is not None

    @property
    def waits(self) -> bool:
        """Whether the host must wait for the inference before it can start the copies of the outputs."""
        return bool(self._allocators)

    def capture(self, plain: dict[str, Array]) -> None:
        """Make a CUDA graph of the bound inference, which ran plainly and gave ``plain``.

        Raises:
            EngineError: The graph gives another result.
        """
        if not self.cuda_graph or self.no_graph or self._graph is not None:
            return
        try:
            with cuda.capture(self.stream) as graph:
                self.enqueue()
        except DeviceError as error:
            self.no_graph = f"it cannot be captured: {error.found}"
            return
        self._graph = graph
        self.start()
        found = self.collect(self.fetch())
        wrong = [name for name, array in plain.items() if not agree(array, found[name])]
        if wrong:
            self._drop_graph()
            raise EngineError(
                f"the CUDA graph gives another result than the plain inference for {', '.join(wrong)}",
                do="set cuda_graph = false, and report the model to NVIDIA",
            )

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def fetch(self) -> dict[str, Shape]:
        """Copy the outputs into pinned memory, wait, and say their shapes."""
        shapes = self.download()
        self.stream.synchronize()
        return shapes

    def download(self) -> dict[str, Shape]:
        """Start the copies of the outputs into pinned memory and say their shapes; see :attr:`waits`."""
        shapes: dict[str, Shape] = {}
        if self.waits:
            self.stream.synchronize()
        for info in self.outputs:
            shape = self._data_shapes.get(info.name) or tuple(self._context.get_tensor_shape(info.name))
            shapes[info.name] = shape
            self._slots[info.name].download(count_bytes(shape, info.dtype), self.stream)
        return shapes

    def collect(self, shapes: dict[str, Shape]) -> dict[str, Array]:
        """Fresh arrays of what was fetched."""
        return {
            info.name: self._slots[info.name].host.array(shapes[info.name], info.dtype).copy() for info in self.outputs
        }

    @property
    def stream(self) -> cuda.Stream:
        """The stream everything runs in."""
        if self._stream is None:
            raise EngineError("the engine is closed", do="open it again")
        return self._stream

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, as fresh arrays. The first call, and the second in a row of the same shapes, is captured.

        Raises:
            DataError: Feeds that do not fit.
            DeviceError: The inference failed.
            EngineError: Its CUDA graph gives another result.
        """
        changed = self.bind(feeds)
        self.upload()
        self.start()
        found = self.collect(self.fetch())
        if not (changed and self._called):
            self.capture(found)
        self._called = True
        return found

    def timer(self, feeds: Feeds) -> TrtTimer:
        """Bind ``feeds`` once. Raises DataError for feeds that do not fit, DeviceError."""
        return TrtTimer(self, feeds)

    def layers(self, nodes: Mapping[str, str]) -> list[audit.Layer]:
        """Every layer with the precision it runs in, from the engine inspector. Raises EngineError.

        ``nodes``: operator by name of the ONNX nodes that the engine was built from.
        """
        return audit.read_inspector(self._require_open().engine, self._context, self._flavour.trt, nodes)

    def close(self) -> None:
        """Free the graph, the buffers, the context and the engine, in that order."""
        self._drop_graph()
        for slot in self._slots.values():
            slot.close()
        self._slots = {}
        self._context = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __enter__(self) -> TrtRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TrtTimer:
    """One bound inference: upload, graph launch or enqueue, download, with an event between each."""

    def __init__(self, runner: TrtRunner, feeds: Feeds) -> None:
        self._runner = runner
        self._events = [cuda.Event() for _ in range(4)]
        runner.bind(feeds)
        runner.upload()
        runner.start()
        self._shapes = runner.fetch()
        runner.capture(self.outputs())
        self.cuda_graph, self.no_graph = runner.captured, runner.no_graph if runner.cuda_graph else ""

    def __call__(self) -> Timing:
        runner, stream = self._runner, self._runner.stream
        first, start, end, last = self._events
        begin = time.perf_counter_ns()
        first.record(stream)
        runner.upload()
        start.record(stream)
        runner.start()
        end.record(stream)
        self._shapes = runner.download()
        last.record(stream)
        last.synchronize()
        wall = (time.perf_counter_ns() - begin) / 1e6
        return Timing(wall, end.since(start), start.since(first), None if runner.waits else last.since(end))

    def outputs(self) -> dict[str, Array]:
        """Copies of the last call's outputs."""
        return self._runner.collect(self._shapes)


def describe(flavour: Flavour, engine: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of an engine by its own names; a dynamic first axis is ``batch``."""
    mode = flavour.trt.TensorIOMode
    found: dict[Any, list[TensorInfo]] = {mode.INPUT: [], mode.OUTPUT: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = tuple(engine.get_tensor_shape(name))
        shape = tuple(
            int(size) if size >= 0 else ("batch" if axis == 0 else f"axis{axis}") for axis, size in enumerate(sizes)
        )
        info = TensorInfo(name=name, shape=shape, dtype=dtype_name(engine.get_tensor_dtype(name)))
        found[engine.get_tensor_mode(name)].append(info)
    return tuple(found[mode.INPUT]), tuple(found[mode.OUTPUT])


def check_feed(info: TensorInfo, array: Any, low: Shape, high: Shape) -> list[str]:
    """What is wrong with one feed against its range; empty when it fits."""
    name = repr(info.name)
    if array is None:
        return [f"{name} is missing"]
    if not isinstance(array, np.ndarray):
        return [f"{name} is a {type(array).__name__}, not a numpy array"]
    problems = []
    if array.dtype != np.dtype(info.dtype):
        problems.append(f"{name} is {array.dtype}, not {info.dtype}")
    if len(array.shape) != len(high) or not all(
        a <= size <= b for a, size, b in zip(low, array.shape, high, strict=True)
    ):
        over = bool(high) and len(array.shape) == len(high) and array.shape[0] > high[0]
        why = f": batch {array.shape[0]} is over the profile's maximum {high[0]}" if over else ""
        problems.append(f"{name} has shape {tuple(array.shape)}{why}")
    return problems


def agree(plain: Array, captured: Array) -> bool:
    """Whether two results are the same up to the order of sums."""
    if plain.shape != captured.shape:
        return False
    if not np.issubdtype(plain.dtype, np.floating):
        return bool((plain == captured).mean() > 1 - GRAPH_TOLERANCE) if plain.size else True
    first, second = np.asarray(plain, np.float32), np.asarray(captured, np.float32)
    scale = float(np.abs(first[np.isfinite(first)]).max(initial=1e-6))
    return bool(np.allclose(first, second, rtol=0, atol=GRAPH_TOLERANCE * scale, equal_nan=True))


def _span(low: Shape, high: Shape) -> str:
    return str(high) if low == high else f"{low} to {high}"
