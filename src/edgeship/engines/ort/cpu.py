"""Open onnxruntime sessions on the CPU: checked feeds, and a timer with everything bound beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.engines import Timing
from edgeship.engines.ort.session import failures, translated
from edgeship.errors import DataError, EngineError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds

Shapes = dict[str, tuple[int, ...]]
_ARRAY = np.ndarray


def check_feeds(feeds: Feeds, inputs: tuple[TensorInfo, ...]) -> dict[str, Array]:
    """Feeds as contiguous arrays in the order of ``inputs``.

    Raises:
        DataError: Every wrong name, dtype and shape, in one message.
    """
    known = {info.name: info for info in inputs}
    problems = [f"{name!r} is not an input" for name in feeds if name not in known]
    axes: dict[str, int] = {}
    for name, info in known.items():
        if name not in feeds:
            problems.append(f"{name!r} is missing")
            continue
        array: object = feeds[name]
        if not isinstance(array, np.ndarray):
            problems.append(f"{name!r} is a {type(array).__name__}, not a numpy array")
            continue
        if array.dtype != np.dtype(info.dtype):
            problems.append(f"{name!r} is {array.dtype}, not {info.dtype}")
        if not _fits(array.shape, info, axes):
            problems.append(f"{name!r} has shape {tuple(array.shape)}")
    if problems:
        wanted = ", ".join(f"{info.name!r} {info.dtype} {_shape_text(info)}" for info in inputs)
        raise DataError(f"the feeds do not fit the engine: {'; '.join(problems)}", expected=wanted)
    return {name: np.asarray(feeds[name], order="C") for name in known}


def _fits(shape: tuple[int, ...], info: TensorInfo, axes: dict[str, int]) -> bool:
    if len(shape) != len(info.shape):
        return False
    for size, axis in zip(shape, info.shape, strict=True):
        if isinstance(axis, int) and size != axis:
            return False
        if isinstance(axis, str) and (size < 1 or axes.setdefault(axis, size) != size):
            return False
    return True


def _shape_text(info: TensorInfo) -> str:
    return "[" + ", ".join(str(axis) for axis in info.shape) + "]"


def output_shapes(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], given: Shapes) -> Shapes | None:
    """The outputs' shapes where the named axes of the inputs settle them; None where they do not."""
    axes = {
        axis: size
        for info in inputs
        for axis, size in zip(info.shape, given[info.name], strict=True)
        if isinstance(axis, str)
    }
    found: Shapes = {}
    for info in outputs:
        shape = [axis if isinstance(axis, int) else axes.get(axis) for axis in info.shape]
        settled = tuple(size for size in shape if size is not None)
        if len(settled) != len(shape):
            return None
        found[info.name] = settled
    return found


def shapes_of(feeds: Mapping[str, Array]) -> Shapes:
    """Shape by name."""
    return {name: array.shape for name, array in feeds.items()}


Fitted = list[tuple[str, "np.dtype[Any]", tuple[int, ...]]]
"""Name, dtype and shape of feeds that :func:`check_feeds` passed."""


def fitted_of(feeds: Mapping[str, Array]) -> Fitted:
    """What :func:`alike` compares the next feeds with."""
    return [(name, array.dtype, array.shape) for name, array in feeds.items()]


def alike(feeds: Feeds, fitted: Fitted) -> bool:
    """Whether contiguous feeds like the last ones came again: a camera's next frame does, and needs no more checks."""
    if type(feeds) is not dict or len(feeds) != len(fitted):
        return False
    for name, dtype, shape in fitted:
        array = feeds.get(name)
        if (
            type(array) is not _ARRAY
            or array.dtype is not dtype
            or array.shape != shape
            or not array.flags.c_contiguous
        ):
            return False
    return bool(fitted)


def _entry(session: Any) -> Callable[..., Sequence[Array]]:
    """``run`` of the compiled session, without the Python around it that checks the names again: 30 µs a call."""
    compiled = getattr(session, "_sess", None)
    return session.run if compiled is None else compiled.run  # type: ignore[no-any-return]


def _closed(*_: object) -> Sequence[Array]:
    raise EngineError("the engine is closed", do="open it again")


class CpuRunner:
    """An open session on the CPU provider."""

    cuda_graph = False

    def __init__(self, session: Any, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> None:
        self.session = session
        self.inputs = inputs
        self.outputs = outputs
        self._names = [info.name for info in outputs]
        self._run = _entry(session)
        self._fitted: Fitted = []

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, as fresh arrays. Raises DataError for feeds that do not fit, DeviceError, EngineError."""
        if not alike(feeds, self._fitted):
            feeds = check_feeds(feeds, self.inputs)
            self._fitted = fitted_of(feeds)
        try:
            found = self._run(self._names, feeds, None)
        except failures():
            with translated("running the engine", "cpu"):
                raise
        if len(found) == 1:
            return {self._names[0]: found[0]}
        return dict(zip(self._names, found, strict=True))

    def timer(self, feeds: Feeds) -> CpuTimer:
        """Bind ``feeds`` once, outputs preallocated. Raises DataError for feeds that do not fit."""
        return CpuTimer(self, check_feeds(feeds, self.inputs))

    def close(self) -> None:
        """Let the session go."""
        self.session = None
        self._run = _closed

    def __enter__(self) -> CpuRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class CpuTimer:
    """One bound inference on the CPU: ``run_with_iobinding`` between two readings of the clock."""

    cuda_graph = False
    no_graph = ""

    def __init__(self, runner: CpuRunner, feeds: dict[str, Array]) -> None:
        self._session = runner.session
        self._feeds = {name: array.copy() for name, array in feeds.items()}
        self._binding = self._session.io_binding()
        self._names = [info.name for info in runner.outputs]
        for name, array in self._feeds.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        shapes = output_shapes(runner.inputs, runner.outputs, shapes_of(feeds))
        self._arrays: dict[str, Array] | None = None
        if shapes is None:
            for name in self._names:
                self._binding.bind_output(name, "cpu")
        else:
            self._arrays = {info.name: np.empty(shapes[info.name], info.dtype) for info in runner.outputs}
            for name, array in self._arrays.items():
                self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        with translated("running the engine", "cpu"):
            self._session.run_with_iobinding(self._binding)

    def __call__(self) -> Timing:
        start = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        return Timing(wall_ms=(time.perf_counter_ns() - start) / 1e6)

    def outputs(self) -> dict[str, Array]:
        """Copies of the last call's outputs."""
        if self._arrays is not None:
            return {name: array.copy() for name, array in self._arrays.items()}
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))
