"""What an ONNX file from outside may hold before a library opens it: all of itself, and operators that are known.

onnxruntime follows ONNX's external data wherever it leads: out of the file's folder, or, for a model that is given as
bytes, into the folder that the process happens to run in. No hash and no signature of a bundle covers what lies there.
So a file is refused that keeps any tensor outside, in any graph, function or attribute; and one whose operators come
from a domain that nobody here knows, or are themselves doors to other files.

Read from the wire format, as :mod:`edgeship.engines.onnx_file` does; field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeship.engines.onnx_file import MODEL_GRAPH, NODE_NAME, NODE_OP_TYPE, Message, opened, opened_bytes
from edgeship.errors import ModelError

DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "trt",
        "trt.plugins",
    }
)
"""Of the standard, of onnxruntime's own fusions, and of what ModelOpt and TensorRT's parser write."""
DOORS = frozenset({"EPContext", "PythonOp", "PythonOpGrad", "PyOp", "ATen", "ExternalModel"})
"""Operators of com.microsoft that name further files or code."""
MAX_PARTS = 6_000_000
"""Fields that are looked at before a file counts as made to be slow; 100,000 nodes have about three million."""
MAX_DEPTH = 16
ORT_FORMAT = b"ORTM"
"""At the fifth byte of onnxruntime's own flatbuffer format, which onnxruntime opens without being asked to."""

MODEL_OPSET, MODEL_TRAINING, MODEL_FUNCTION = 8, 20, 25
FUNCTION_NODE, FUNCTION_DOMAIN, FUNCTION_ATTRIBUTE = 7, 10, 11
GRAPH_NODE, GRAPH_TENSOR, GRAPH_SPARSE = 1, 5, 15
NODE_ATTRIBUTE, NODE_DOMAIN = 5, 7
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
TENSOR_NAME, TENSOR_EXTERNAL, TENSOR_LOCATION = 8, 13, 14


def check_file(path: Path, *, plugins: bool = False, beside: str | None = None) -> None:
    """Refuse an ONNX file that may not be opened.

    Args:
        path: The file.
        plugins: Whether libraries of operators come with it: then any domain may be theirs.
        beside: The one other file, in the same folder, that may hold weights: its hash is known too.

    Raises:
        ModelError: Not readable as ONNX, a tensor outside the file, or an operator that is not known.
    """
    with opened(path) as model:
        _Check(path.name, plugins, beside=Path(beside).name if beside else None).model(model)


def check_bytes(data: bytes, name: str, *, plugins: bool = False) -> None:
    """As :func:`check_file`, for the very bytes that are given to a library."""
    with opened_bytes(data, name) as model:
        _Check(name, plugins).model(model)


@dataclass
class _Check:
    name: str
    plugins: bool
    domains: set[str] = field(default_factory=lambda: set(DOMAINS))
    parts: int = 0
    beside: str | None = None

    def model(self, model: Message) -> None:
        if bytes(model.data[model.start + 4 : model.start + 8]) == ORT_FORMAT:
            raise self._refused("is in onnxruntime's own format", "an ONNX model")
        functions = []
        for number, value in self._fields(model):
            if number == MODEL_FUNCTION:
                functions.append(value)
                self.domains |= set(value.texts(FUNCTION_DOMAIN))
        for function in functions:
            self._nodes(function, FUNCTION_NODE, 0)
            for attribute in function.all(FUNCTION_ATTRIBUTE):
                self._attribute(attribute, 0)
        for number, value in self._fields(model):
            if number == MODEL_GRAPH:
                self._graph(value, 0)
            elif number == MODEL_TRAINING:
                raise self._refused("holds a training graph", "a model for inference")

    def _graph(self, graph: Message, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._refused("nests graphs too deeply", f"at most {MAX_DEPTH} levels")
        for number, value in self._fields(graph):
            if number == GRAPH_TENSOR:
                self._tensor(value)
            elif number == GRAPH_SPARSE:
                self._sparse(value)
        self._nodes(graph, GRAPH_NODE, depth)

    def _nodes(self, holder: Message, number: int, depth: int) -> None:
        for found, node in self._fields(holder):
            if found != number:
                continue
            operator = name = domain = ""
            for part, value in self._fields(node):
                if part == NODE_ATTRIBUTE:
                    self._attribute(value, depth)
                elif part == NODE_DOMAIN:
                    domain = value.decoded()
                elif part == NODE_OP_TYPE:
                    operator = value.decoded()
                elif part == NODE_NAME:
                    name = value.decoded()
            if operator in DOORS or (domain not in self.domains and not self.plugins):
                where = f"{domain}::{operator}" if domain else operator
                raise self._refused(
                    f"has the operator {where[:120]!r} (node {name[:120]!r})",
                    "operators of the ONNX standard or of onnxruntime, or a plugin library in the bundle",
                )

    def _attribute(self, attribute: Message, depth: int) -> None:
        for number, value in self._fields(attribute):
            if number in ATTRIBUTE_TENSORS:
                self._tensor(value)
            elif number in ATTRIBUTE_GRAPHS:
                self._graph(value, depth + 1)
            elif number in ATTRIBUTE_SPARSE:
                self._sparse(value)

    def _sparse(self, sparse: Message) -> None:
        for number, value in self._fields(sparse):
            if number in (1, 2):
                self._tensor(value)

    def _tensor(self, tensor: Message) -> None:
        name, outside, locations = "", False, set[str]()
        for number, value in tensor.fields():
            self._count()
            if number == TENSOR_NAME and isinstance(value, Message):
                name = value.decoded()
            outside = outside or number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0)
            if number == TENSOR_EXTERNAL and isinstance(value, Message) and "location" in value.texts(1):
                locations.update(value.texts(2) or ("",))
        if outside and not (self.beside is not None and locations == {self.beside}):
            raise self._refused(
                f"keeps the tensor {name[:120]!r} outside the file (ONNX external data)",
                "every weight inside the file: no hash covers what lies elsewhere",
            )

    def _fields(self, message: Message) -> Iterator[tuple[int, Message]]:
        for number, value in message.fields():
            self._count()
            if isinstance(value, Message):
                yield number, value

    def _count(self) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise self._refused(f"has over {MAX_PARTS} parts", "a model that can be checked in seconds")

    def _refused(self, what: str, expected: str) -> ModelError:
        return ModelError(f"{self.name} {what}", expected=expected, do="do not open it; export the model again")
