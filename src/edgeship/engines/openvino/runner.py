"""Open OpenVINO networks: compiled for the shapes that ship, and beside that for every other size of the profile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.engines import OpenOptions, Timing, onnx_policy, read_engine
from edgeship.engines.checked_feeds import Fitted, Shapes, alike, check_feeds, fitted_of, shapes_of
from edgeship.engines.openvino.library import library, new_core, place_of, translated
from edgeship.engines.openvino.plan import EngineFile, read_file
from edgeship.errors import EngineError, UserInputError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.engines import Array, Feeds


@dataclass(frozen=True)
class Compiled:
    """A network that OpenVINO compiled, with the places of its tensors in the order of our names."""

    network: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """The networks of one engine file: for the shapes that ship, and for other sizes; one of them may be None."""

    file: EngineFile
    device: str
    fixed: Compiled | None
    other: Compiled | None


def open_file(path: Path, options: OpenOptions, *, counters: bool = False) -> Opened:
    """Compile an engine file.

    Args:
        path: The file.
        options: Device, threads and plugins.
        counters: Whether the networks note what each of their kernels takes.

    Raises:
        UserInputError: The file is not there.
        ArtifactError: It was changed since it was checked, or its mark is damaged.
        ModelError: It is not ONNX, or holds what may not be opened.
        DeviceError: The device is not here, or its memory is full.
        EngineError: OpenVINO refuses the file.
    """
    if not path.is_file():
        raise UserInputError(f"no engine file at {path}", do="edgeship build MODEL.onnx --engine openvino")
    file = read_file(read_engine(path, options), path.name)
    onnx_policy.check_bytes(file.data, path.name, plugins=bool(options.plugins))
    core = new_core(options.plugins)
    place = place_of(core, options.device)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": file.plan.arithmetic,
        "PERF_COUNT": "YES" if counters else "NO",
    }
    if options.device == "cpu" and options.threads:
        settings["INFERENCE_NUM_THREADS"] = str(options.threads)
    with translated(f"loading {path.name}", options.device):
        fixed = _compile(core, file, place, settings, file.plan.shapes) if file.plan.shapes else None
        loose = file.plan.dynamic or fixed is None
        other = _compile(core, file, place, settings, {}) if loose else None
    return Opened(file, options.device, fixed, other)


def _compile(core: Any, file: EngineFile, place: str, settings: dict[str, str], shapes: Shapes) -> Compiled:
    model = core.read_model(file.data)
    if shapes:
        model.reshape({name: list(shape) for name, shape in shapes.items()})
    network = core.compile_model(model, place, settings)
    got = network.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if got != file.plan.arithmetic:
        raise EngineError(f"the engine is for {file.plan.arithmetic}, and OpenVINO on {place} compiled it for {got}")
    return Compiled(network, _places(network.inputs, file.inputs), _places(network.outputs, file.outputs))


def _places(offered: Any, wanted: tuple[TensorInfo, ...]) -> tuple[int, ...]:
    """Where the tensors of these names are. Raises EngineError where one is missing or of another type."""
    by_name = {name: place for place, tensor in enumerate(offered) for name in tensor.get_names()}
    for info in wanted:
        place = by_name.get(info.name)
        if place is None:
            raise EngineError(f"OpenVINO's network has no tensor {info.name!r}", expected=", ".join(sorted(by_name)))
        dtype = np.dtype(offered[place].get_element_type().to_dtype()).name
        if dtype != info.dtype:
            raise EngineError(f"OpenVINO gives {info.name!r} as {dtype}", expected=f"{info.dtype}, as the ONNX says")
    return tuple(by_name[info.name] for info in wanted)


class _Request:
    """One network's request: inputs are read where they lie, outputs copied out."""

    def __init__(self, compiled: Compiled, names: list[str]) -> None:
        self._compiled, self._names = compiled, names
        self._request = compiled.network.create_infer_request()
        self._tensor = library().Tensor
        self._held: Feeds = {}

    def bind(self, feeds: Feeds) -> None:
        """Read the next inputs from these arrays, which live until others are bound; a read-only one is copied."""
        self._held = feeds
        for place, array in zip(self._compiled.inputs, feeds.values(), strict=True):
            self._request.set_input_tensor(place, self._tensor(array, shared_memory=array.flags.writeable))

    def run(self) -> None:
        """One inference."""
        self._request.start_async()
        self._request.wait()

    def outputs(self) -> dict[str, Array]:
        """Copies of the last outputs by name."""
        return {
            name: self._request.get_output_tensor(place).data.copy()
            for name, place in zip(self._names, self._compiled.outputs, strict=True)
        }


class OpenvinoRunner:
    """An open engine."""

    cuda_graph = False

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self.device = opened.device
        self.outputs = opened.file.outputs
        self.inputs = opened.file.inputs if opened.other is not None else _fixed(opened)
        self._names = [info.name for info in self.outputs]
        self._requests: dict[bool, _Request] = {}
        self._fitted: Fitted = []
        self._closed = False

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, as fresh arrays. Raises DataError for feeds that do not fit, DeviceError, EngineError."""
        if not alike(feeds, self._fitted):
            feeds = check_feeds(feeds, self.inputs)
            self._fitted = fitted_of(feeds)
        request = self._request_for(shapes_of(feeds))
        with translated("running the engine", self.device):
            request.bind({info.name: feeds[info.name] for info in self.inputs})
            request.run()
            return request.outputs()

    def timer(self, feeds: Feeds) -> OpenvinoTimer:
        """Bind ``feeds`` once. Raises DataError for feeds that do not fit."""
        ready = check_feeds(feeds, self.inputs)
        compiled = self._compiled_for(shapes_of(ready))
        with translated("running the engine", self.device):
            return OpenvinoTimer(_Request(compiled, self._names), ready)

    def close(self) -> None:
        """Let the networks go."""
        self._closed = True
        self._requests.clear()
        self._opened = Opened(self._opened.file, self.device, None, None)

    def __enter__(self) -> OpenvinoRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _compiled_for(self, shapes: Shapes) -> Compiled:
        if self._closed:
            raise EngineError("the engine is closed", do="open it again")
        own = self._opened.fixed is not None and shapes == self._opened.file.plan.shapes
        found = self._opened.fixed if own else self._opened.other
        assert found is not None, "feeds of other sizes do not pass check_feeds"
        return found

    def _request_for(self, shapes: Shapes) -> _Request:
        compiled = self._compiled_for(shapes)
        own = compiled is self._opened.fixed
        if own not in self._requests:
            self._requests[own] = _Request(compiled, self._names)
        return self._requests[own]


class OpenvinoTimer:
    """One bound inference between two readings of the clock."""

    cuda_graph = False
    no_graph = ""

    def __init__(self, request: _Request, feeds: dict[str, Array]) -> None:
        self._request = request
        request.bind({name: array.copy() for name, array in feeds.items()})
        request.run()

    def __call__(self) -> Timing:
        start = time.perf_counter_ns()
        self._request.run()
        return Timing(wall_ms=(time.perf_counter_ns() - start) / 1e6)

    def outputs(self) -> dict[str, Array]:
        """Copies of the last call's outputs."""
        return self._request.outputs()


def _fixed(opened: Opened) -> tuple[TensorInfo, ...]:
    """The inputs with the only sizes that the engine takes."""
    shapes = opened.file.plan.shapes
    return tuple(info.model_copy(update={"shape": shapes[info.name]}) for info in opened.file.inputs)
