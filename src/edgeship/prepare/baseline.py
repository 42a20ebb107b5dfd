"""What the user would have without an engine: PyTorch on the same shapes, timed by the same benchmark.

Every baseline is a runner with a timer, so that ``trial.benchmark`` measures it exactly as it measures an engine.
Its inputs lie on the device beforehand: neither wall nor device time holds a transfer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import baselines_for
from edgeship.engines import Timing
from edgeship.errors import DeviceError, EngineError, UserInputError
from edgeship.prepare.model import flat_outputs, import_torch
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import torch

    from edgeship.engines import Array, Feeds

_WARM_UP = 5


def open_baseline(name: str, module: torch.nn.Module, inputs: tuple[str, ...], device: str) -> TorchRunner:
    """A PyTorch model as a runner.

    Args:
        name: One of :func:`edgeship.config.baselines_for`.
        module: The model; it is copied, not changed.
        inputs: Names for its positional inputs, in order.
        device: ``"cpu"`` or ``"cuda:0"``.

    Raises:
        UserInputError: No baseline of this name.
        DeviceError: PyTorch sees no CUDA device.
    """
    torch = import_torch("the PyTorch baseline")
    if name not in baselines_for(device):
        raise UserInputError(f"there is no baseline {name!r} on {device}", expected=", ".join(baselines_for(device)))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(
            f"{device} was asked for, and this PyTorch {torch.__version__} sees no CUDA device",
            do="install a CUDA build of PyTorch, or use --device cpu",
        )
    return TorchRunner(name, module, inputs, device)


class TorchRunner:
    """A PyTorch model behind the runner protocol. TF32 is as PyTorch's defaults have it."""

    def __init__(self, name: str, module: torch.nn.Module, inputs: tuple[str, ...], device: str) -> None:
        import copy

        self._torch = import_torch("the PyTorch baseline")
        self.name, self.device = name, device
        self.half = name.endswith("fp16")
        self.channels_last = "channels-last" in name or (self.half and name != "eager-fp16")
        self.cuda_graph = name.startswith("cuda-graph")
        made = copy.deepcopy(module).eval().to(device)
        if self.half:
            made = made.half()
        if self.channels_last:
            made = made.to(memory_format=self._torch.channels_last)  # type: ignore[call-overload]
        self.module: Callable[..., Any] = self._torch.compile(made) if name.startswith("compile") else made
        self._names = inputs
        self.inputs: tuple[TensorInfo, ...] = ()
        self.outputs: tuple[TensorInfo, ...] = ()

    def tensors(self, feeds: Feeds) -> list[Any]:
        """The feeds as tensors on the device, in the baseline's type and memory format."""
        made = []
        for name in self._names:
            tensor = self._torch.from_numpy(np.ascontiguousarray(feeds[name])).to(self.device)
            if self.half and tensor.is_floating_point():
                tensor = tensor.half()
            if self.channels_last and tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=self._torch.channels_last)
            made.append(tensor)
        return made

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, as fresh arrays."""
        with self._torch.inference_mode():
            return arrays_of(self.module(*self.tensors(feeds)))

    def timer(self, feeds: Feeds) -> TorchTimer:
        """Place the feeds on the device and warm up: compile, search algorithms, capture the graph.

        Raises:
            EngineError: PyTorch could not compile, capture or run this baseline.
        """
        try:
            return TorchTimer(self, self.tensors(feeds))
        except RuntimeError as error:
            raise EngineError(f"PyTorch {self.name}: {' '.join(str(error).split())[:400]}") from error

    def close(self) -> None:
        """Let the model go and give its cached device memory back."""
        self.module = _closed
        if self.device.startswith("cuda"):
            with suppress(RuntimeError):
                self._torch.cuda.empty_cache()

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TorchTimer:
    """One bound call of a PyTorch model; device time by ``torch.cuda.Event``."""

    def __init__(self, runner: TorchRunner, tensors: list[Any]) -> None:
        torch = import_torch("the PyTorch baseline")
        self._torch, self._cuda = torch, runner.device.startswith("cuda")
        self.cuda_graph, self.no_graph = runner.cuda_graph, ""
        self._last: Any = None
        self._call: Callable[[], Any] = lambda: runner.module(*tensors)
        with torch.inference_mode():
            if runner.cuda_graph:
                self._call = self._captured(self._call)
            else:
                for _ in range(_WARM_UP):
                    self._call()
        if self._cuda:
            torch.cuda.synchronize()
            self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def _captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            held = call()

        def replay() -> Any:
            graph.replay()
            return held

        return replay

    def __call__(self) -> Timing:
        with self._torch.inference_mode():
            begin = time.perf_counter_ns()
            if not self._cuda:
                self._last = self._call()
                return Timing(wall_ms=(time.perf_counter_ns() - begin) / 1e6)
            self._start.record()
            self._last = self._call()
            self._end.record()
            self._end.synchronize()
            wall = (time.perf_counter_ns() - begin) / 1e6
            return Timing(wall_ms=wall, device_ms=self._start.elapsed_time(self._end))

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last call, by place or key."""
        return arrays_of(self._last)


def arrays_of(value: Any) -> dict[str, Array]:
    """A model's outputs as arrays by name."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in flat_outputs(value)}


def _closed(*_: Any) -> Any:
    raise EngineError("this baseline is closed")
