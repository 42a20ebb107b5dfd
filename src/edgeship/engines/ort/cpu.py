"""Open onnxruntime sessions on the CPU, and a timer with everything bound beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.engines import Timing
from edgeship.engines.checked_feeds import Fitted, alike, check_feeds, fitted_of, output_shapes, shapes_of
from edgeship.engines.ort.session import failures, translated
from edgeship.errors import EngineError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds


def _entry(session: Any) -> Callable[..., Sequence[Array]]:
    """``run`` of the compiled session, without the Python around it that checks the names again: 30 µs a call."""
    compiled = getattr(session, "_sess", None)
    return session.run if compiled is None else compiled.run  # type: ignore[no-any-return]


def _closed(*_: object) -> Sequence[Array]:
    raise EngineError("the engine is closed", do="open it again")


class CpuRunner:
    """An open session that takes and gives arrays in the host's memory: on the CPU provider, or on a plugin's."""

    cuda_graph = False
    no_graph = ""

    def __init__(
        self, session: Any, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], device: str = "cpu"
    ) -> None:
        self.session = session
        self.device = device
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
            with translated("running the engine", self.device):
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
    """One bound inference, arrays in the host's memory: ``run_with_iobinding`` between two readings of the clock."""

    cuda_graph = False

    def __init__(self, runner: CpuRunner, feeds: dict[str, Array]) -> None:
        self.no_graph = runner.no_graph
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
        with translated("running the engine", runner.device):
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
