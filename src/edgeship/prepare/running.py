"""Running an ONNX graph with onnxruntime on the CPU: one place for its options, and its errors in our words."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines.ort import session as sessions
from edgeship.errors import MissingExtra, ModelError
from edgeship.prepare import graph

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
            without. Layout changes are never made: they end the process on some FP16 recurrent graphs.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError: onnxruntime refuses the graph.
    """

    def __init__(self, model: onnx.ModelProto | Path, *, optimize: bool = True) -> None:
        try:
            ort = sessions.library()
        except MissingExtra:
            raise MissingExtra("running an ONNX graph", "onnxruntime", "host") from None
        options = ort.SessionOptions()
        options.log_severity_level = 4
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if optimize else level.ORT_DISABLE_ALL
        options.add_session_config_entry("session.x64quantprecision", "1")
        with ExitStack() as stack:
            source = str(model) if isinstance(model, Path) else _serialized(model, stack)
            try:
                self._session = ort.InferenceSession(source, options, providers=[sessions.CPU])
            except sessions.failures() as error:
                raise ModelError(
                    f"onnxruntime {ort.__version__} cannot load the graph: {_one_line(error)[:400]}",
                    do="edgeship preflight names the nodes; or export it again with another model.opset",
                ) from None

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs ``names`` on feeds by input name.

        Raises:
            RunError: onnxruntime refuses the feeds, or fails on them.
        """
        try:
            answers: list[Array] = self._session.run(list(names), dict(feeds))
        except _refusals() as error:
            raise RunError(_one_line(error)) from None
        return answers


def _refusals() -> tuple[type[Exception], ...]:
    return (*sessions.failures(), ValueError)


def _one_line(error: Exception) -> str:
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))


def _serialized(model: onnx.ModelProto, stack: ExitStack) -> bytes | str:
    """The graph's bytes, or a file that holds them where protobuf cannot hold them in one message."""
    if graph.weight_bytes(model) < graph.PROTOBUF_LIMIT:
        whole: bytes = model.SerializeToString()
        return whole
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    graph.save_onnx(model, folder / "model.onnx")
    return str(folder / "model.onnx")
