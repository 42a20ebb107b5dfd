"""Running an ONNX graph with onnxruntime on the CPU: one place for its options, and its errors in our words."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines.ort import session as sessions
from edgeship.errors import ModelError
from edgeship.prepare import graph, large

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]

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
    ) -> None:
        level: sessions.Level = ("all" if layout else "fuse") if optimize else "none"
        with ExitStack() as stack:
            source = model if isinstance(model, Path) else _serialized(model, stack)
            self.session = sessions.exact_session(source, level=level, threads=threads, device=device)

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


def _refusals() -> tuple[type[Exception], ...]:
    return (*sessions.failures(), ValueError)


def _serialized(model: onnx.ModelProto, stack: ExitStack) -> bytes | Path:
    """The graph's bytes, or a file that holds them where protobuf cannot hold them in one message."""
    if not large.too_large(model):
        whole: bytes = model.SerializeToString()
        return whole
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    graph.save_onnx(model, folder / "model.onnx")
    return folder / "model.onnx"
