"""Running an ONNX graph with onnxruntime on the CPU: one place for its options, and its errors in our words."""

from __future__ import annotations

import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeship.data.loader import cores
from edgeship.engines.ort import session as sessions
from edgeship.errors import ModelError
from edgeship.files import storage_errors
from edgeship.prepare import graph, large

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_HANDS = 16
"""Forward passes side by side, at most: each holds the activations of its own frames."""

T = TypeVar("T")
R = TypeVar("R")

_NODE = re.compile(r"running (\S+) node\. Name:'([^']*)' Status Message: (.*)")
_PLACES = re.compile(r"^(?:/\S+:\d+ )?(?:[\w:<>~ ]+\([^)]*\) (?:const )?(?:\[with [^\]]*\] )?)?")


class RunError(ModelError):
    """A graph cannot be run on given inputs. ``node`` and ``operator`` are the ones that failed, where known."""

    def __init__(self, words: str) -> None:
        at = _NODE.search(words)
        self.operator, self.node = (at.group(1), at.group(2)) if at else ("", "")
        self.words = _PLACES.sub("", at.group(3) if at else words)[:400]
        where = f"{self.operator} {self.node!r}: " if at else ""
        super().__init__(
            f"onnxruntime cannot run the graph on these inputs: {where}{self.words}",
            do="check shapes and values of the inputs; edgeship inspect lists what the graph takes",
        )


class Running:
    """An open graph.

    Args:
        model: The graph, or the path of its file.
        optimize: Whether onnxruntime may fuse nodes. Inner tensors stay, and errors name the graph's own nodes, only
            without.
        layout: Whether it may also change layouts, which is faster for convolutions; it ends the process on some FP16
            recurrent graphs.
        threads: CPU threads of one run (0: onnxruntime's own choice).
        device: ``"cpu"`` or ``"cuda:0"``.
        also: Inner tensors that can be asked for too.
        packed: Whether kernels keep a copy of the weights in a layout of their own, which makes all runs after the
            first one faster.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError: onnxruntime refuses the graph.
        DeviceError: The provider of ``device`` is not there, or did not start.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        *,
        optimize: bool = True,
        layout: bool = False,
        threads: int = 0,
        device: str = "cpu",
        also: Sequence[str] = (),
        packed: bool = True,
    ) -> None:
        level: sessions.Level = ("all" if layout else "fuse") if optimize else "none"
        with ExitStack() as stack:
            source = model if isinstance(model, Path) else _serialized(model, also, stack)
            self.session = sessions.exact_session(source, level=level, threads=threads, device=device, packed=packed)

    def get_inputs(self) -> Any:
        """onnxruntime's description of the inputs."""
        return self.session.get_inputs()

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs ``names`` (None: all, in the graph's order) on feeds by input name.

        Raises:
            RunError: onnxruntime refuses the feeds, or fails on them.
        """
        try:
            answers: list[Array] = self.session.run(None if names is None else list(names), dict(feeds))
        except _refusals() as error:
            raise RunError(sessions.one_line(error)) from None
        return answers


def hands() -> int:
    """One thread for each core this process may use, at most :data:`MOST_HANDS`."""
    return min(MOST_HANDS, cores())


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """``work`` of every item, in their order: side by side on ``workers`` threads, few ahead of what was taken."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        window: deque[Future[R]] = deque()
        try:
            for item in items:
                window.append(pool.submit(work, item))
                if len(window) > workers:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def _refusals() -> tuple[type[Exception], ...]:
    return (*sessions.failures(), ValueError)


def _serialized(model: onnx.ModelProto, also: Sequence[str], stack: ExitStack) -> bytes | Path:
    """The graph's bytes, or a file that holds them where protobuf cannot hold them in one message."""
    if not large.too_large(model):
        whole: bytes = (graph.with_outputs(model, also) if also else model).SerializeToString()
        return whole
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return store(model, folder / "model.onnx", also)[0]


def store(model: onnx.ModelProto, file: Path, also: Sequence[str] = ()) -> tuple[Path, onnx.ModelProto]:
    """Write a graph for runs in this process, its large weights beside it; the file and the graph without them."""
    light = large.set_apart(model, graph.data_of(file), graph.data_of(file).name)
    return _stored(graph.with_outputs(light, also) if also else light, file), light


def _stored(light: onnx.ModelProto, file: Path) -> Path:
    import onnx

    onnx.save(light, str(file))
    return file


@dataclass
class Room:
    """Where several forms of one graph are opened: too large a one lies once in ``folder``, None for the others."""

    folder: Path | None
    _light: onnx.ModelProto | None = None

    @classmethod
    def beside(cls, target: Path, model: onnx.ModelProto, stack: ExitStack) -> Room:
        """Room for ``model``: a folder beside ``target``, until ``stack`` is left, where it is too large."""
        if not large.too_large(model):
            return cls(None)
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            made = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
        return cls(Path(stack.enter_context(made)))

    def open(self, model: onnx.ModelProto) -> Running:
        """The graph open for a few runs, as it stands. Its large weights are in ``folder`` afterwards, or were."""
        if self.folder is None:
            return Running(model, optimize=False)
        file = self.folder / "model.onnx"
        with storage_errors(file):
            if large.too_large(model):
                _, self._light = store(model, file)
            else:
                _stored(model, file)
        return Running(file, optimize=False, packed=False)

    def light(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The graph, with the interface of ``model``, that leaves its large weights in ``folder``."""
        if self._light is None:
            return model
        del self._light.graph.output[:]
        self._light.graph.output.extend(model.graph.output)
        return self._light
