"""What an ONNX file holds, read from its protobuf wire format: the target has no ``onnx`` package.

Field numbers are those of onnx.proto3. Nodes, tensor types and the types of stored weights are read; the weights'
bytes are skipped unread. Shapes follow one rule, :func:`dimension`, here and in ``prepare.graph``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeship.config import Precision
from edgeship.engines.file_kind import require_onnx
from edgeship.errors import ModelError
from edgeship.files import open_outside
from edgeship.results import TensorInfo

ONE_FILE = 2**31 - 2**20
"""Bytes of weights that fit one ONNX file: a protobuf message holds 2 GiB."""
MODEL_GRAPH, MODEL_METADATA = 7, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE = 1, 2, 3, 4
TENSOR_DIMS, TENSOR_DATA_TYPE, TENSOR_NAME = 1, 2, 8
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR = 1
TENSOR_TYPE_ELEMENT, TENSOR_TYPE_SHAPE, SHAPE_DIM, DIM_VALUE, DIM_NAME = 1, 2, 1, 1, 2

FLOAT, FLOAT16 = 1, 10
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "str", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
    17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4",
    23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
}  # fmt: skip
"""TensorProto.DataType → numpy's (or ml_dtypes') name."""
CONTAINERS = {4: "sequence", 5: "map", 7: "opaque", 8: "sparse", 9: "optional"}
"""Fields of TypeProto that are not plain tensors → the ``dtype`` that :class:`TensorInfo` shows for them."""
WEIGHTED = frozenset(("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"))

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Tensors = tuple[TensorInfo, ...]


@dataclass(frozen=True)
class Node:
    """One node of the top-level graph."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(path: Path) -> tuple[Node, ...]:
    """The nodes of an ONNX file's top-level graph, in its order.

    Raises:
        ModelError: The file is absent, empty or cut short.
    """
    with opened(path) as model:
        return tuple(_node(node) for graph in model.all(MODEL_GRAPH) for node in graph.all(GRAPH_NODE))


MOVES = frozenset(
    ("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize", "QuantizeLinear")
) | {"DequantizeLinear"}
"""Operators after which values lie where they lay before."""
BOUNDED = frozenset(("Sigmoid", "HardSigmoid", "Softmax"))


LINEAR = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
"""Operators with weights, whose values have no bounds."""


JOINS = MOVES | {"Concat", "Slice", "Split", "Sigmoid", "HardSigmoid", "Constant"}
"""Operators between the last weights of a head that is not decoded and its output."""


def exponent_behind(path: Path) -> dict[str, bool]:
    """Output → whether an Exp lies between it and the last layers with weights.

    Outputs without one are left out where another operator than :data:`JOINS` computes: it may decode in its own way.
    Raises as :func:`last_activations`.
    """
    made = {name: node for node in read_nodes(path) for name in node.outputs}
    found = {}
    for info in read_inputs(path)[1]:
        open_, seen = [info.name], set()
        exponent, plain = False, True
        while open_:
            node = made.get(open_.pop())
            if node is None or id(node) in seen or node.operator in LINEAR:
                continue
            seen.add(id(node))
            exponent = exponent or node.operator == "Exp"
            plain = plain and node.operator in JOINS
            open_ += node.inputs
        if exponent or plain:
            found[info.name] = exponent
    return found


def last_activations(path: Path) -> dict[str, str]:
    """Output → the operator of :data:`BOUNDED` or :data:`LINEAR` that its values come from; empty: from another.

    Raises:
        ModelError: The file is absent, empty, cut short, or not an ONNX model.
    """
    made = {name: node for node in read_nodes(path) for name in node.outputs}
    found = {}
    for info in read_inputs(path)[1]:
        node = made.get(info.name)
        while node is not None and node.operator in MOVES:
            node = made.get(node.inputs[0])
        found[info.name] = node.operator if node is not None and node.operator in BOUNDED | LINEAR else ""
    return found


def read_inputs(path: Path) -> tuple[Tensors, Tensors]:
    """Inputs (without initializers) and outputs, by their own names.

    A value that is not a tensor has no shape, and one of :data:`CONTAINERS` as its ``dtype``.

    Raises:
        ModelError: The file is absent, empty, cut short, or not an ONNX model.
    """
    with opened(path) as model:
        return tensors_of(model, str(path))


def tensors_of(model: Message, name: str) -> tuple[Tensors, Tensors]:
    """As :func:`read_inputs`, of a model that is open already; ``name`` is what messages call it."""
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    weights: set[str] = set()
    for graph in model.all(MODEL_GRAPH):
        weights |= {tensor.text(TENSOR_NAME) for tensor in graph.all(GRAPH_INITIALIZER)}
        inputs += [_value(value) for value in graph.all(GRAPH_INPUT)]
        outputs += [_value(value) for value in graph.all(GRAPH_OUTPUT)]
    if not outputs:
        raise ModelError(
            f"{name} is not an ONNX model: it has no graph with outputs",
            expected="an .onnx file",
            do="export it again: edgeship export",
        )
    return tuple(tensor for tensor in inputs if tensor.name not in weights), tuple(outputs)


def read_metadata(model: Message) -> dict[str, str]:
    """The metadata that a model carries: key → text."""
    return {entry.text(ENTRY_KEY): entry.text(ENTRY_VALUE) for entry in model.all(MODEL_METADATA)}


def with_metadata(data: bytes, key: str, value: str) -> bytes:
    """An ONNX file's bytes with one more entry of metadata: a field of the wire format may follow all others."""
    entry = field(ENTRY_KEY, key.encode()) + field(ENTRY_VALUE, value.encode())
    return data + field(MODEL_METADATA, entry)


def field(place: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return number(place << 3 | _BYTES) + number(len(content)) + content


def number(value: int) -> bytes:
    """A number as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def read_weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of stored weights by name. Raises as :func:`read_nodes`."""
    with opened(path) as model:
        return {
            tensor.text(TENSOR_NAME): tensor.numbers(TENSOR_DIMS)
            for graph in model.all(MODEL_GRAPH)
            for tensor in graph.all(GRAPH_INITIALIZER)
        }


def weight_types(path: Path) -> set[int]:
    """TensorProto.DataType of the stored weights of convolutions and matrix products. Raises as :func:`read_nodes`."""
    used = {name for node in read_nodes(path) if node.operator in WEIGHTED for name in node.inputs[1:2]}
    return {kind for name, kind in stored_types(path).items() if name in used}


def stored_types(path: Path) -> dict[str, int]:
    """TensorProto.DataType of every stored weight by name. Raises as :func:`read_nodes`."""
    with opened(path) as model:
        return {
            tensor.text(TENSOR_NAME): tensor.number(TENSOR_DATA_TYPE)
            for graph in model.all(MODEL_GRAPH)
            for tensor in graph.all(GRAPH_INITIALIZER)
        }


def weights_are_half(path: Path) -> bool:
    """Whether every stored weight of a convolution or matrix product is FP16, and there is one.

    Raises as :func:`read_nodes`.
    """
    return weight_types(path) == {FLOAT16}


def declared_precision(path: Path) -> Precision:
    """The precision that an ONNX file itself asks for: of its Q/DQ nodes and its stored weights.

    Raises as :func:`read_nodes`.
    """
    half = weights_are_half(path)
    if any(node.operator == "QuantizeLinear" for node in read_nodes(path)):
        return "int8-fp16" if half else "int8-fp32"
    return "fp16" if half else "fp32"


def dimension(size: int, name: str, axis: int) -> int | str:
    """A dimension of a declared shape: its name where it has one, its size where that is 1 or more, else ``axisN``.

    A size of 0 or below is a dynamic axis without a name: Paddle writes -1 for the batch.
    """
    return name or (size if size > 0 else f"axis{axis}")


@dataclass(frozen=True)
class Message:
    """A protobuf message between two offsets of a file."""

    data: mmap.mmap | bytes
    start: int
    stop: int

    def fields(self) -> Iterator[tuple[int, int | Message]]:
        """(field number, its number or its bytes) in the order of the file. Fixed-width numbers are skipped."""
        place = self.start
        while place < self.stop:
            key, place = _varint(self.data, place)
            field, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, place = _varint(self.data, place)
                yield field, value
            elif kind == _BYTES:
                length, place = _varint(self.data, place)
                if place + length > self.stop:
                    raise ValueError(f"a field of {length} bytes at offset {place} reaches beyond the end")
                yield field, Message(self.data, place, place + length)
                place += length
            elif kind in (_FIXED64, _FIXED32):
                place += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"unknown wire type {kind} at offset {place}")

    def all(self, field: int) -> Iterator[Message]:
        """The messages of a repeated field."""
        return (value for number, value in self.fields() if number == field and isinstance(value, Message))

    def texts(self, field: int) -> tuple[str, ...]:
        """The strings of a repeated field."""
        return tuple(value.decoded() for value in self.all(field))

    def decoded(self) -> str:
        """These bytes as a string."""
        return self.data[self.start : self.stop].decode("utf-8")

    def text(self, field: int) -> str:
        """A string field; empty where it is absent."""
        return next(iter(self.texts(field)), "")

    def numbers(self, field: int) -> tuple[int, ...]:
        """The numbers of a repeated field, packed or one by one."""
        found: list[int] = []
        for number, value in self.fields():
            if number == field and isinstance(value, int):
                found.append(value)
            elif number == field and isinstance(value, Message):
                place = value.start
                while place < value.stop:
                    one, place = _varint(self.data, place)
                    found.append(one)
        return tuple(found)

    def number(self, field: int) -> int:
        """A varint field as a signed 64-bit number; 0 where it is absent."""
        found = next((value for number, value in self.fields() if number == field and isinstance(value, int)), 0)
        return found - (1 << 64) if found >= 1 << 63 else found


@contextmanager
def opened(path: Path) -> Iterator[Message]:
    """The whole file as one message; what breaks while it is read becomes ModelError."""
    with _whole(str(path)):
        require_onnx(path)
        with open_outside(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield Message(data, 0, len(data))


@contextmanager
def opened_bytes(data: bytes, name: str) -> Iterator[Message]:
    """As :func:`opened`, for a file that is in memory already."""
    with _whole(name):
        yield Message(data, 0, len(data))


@contextmanager
def _whole(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, IndexError) as error:
        why = "it ends in the middle of a field" if isinstance(error, IndexError) else error
        raise ModelError(
            f"{name} is not a readable ONNX file: {why}",
            expected="a whole .onnx file",
            do="export it again: edgeship export",
        ) from None


def _varint(data: mmap.mmap | bytes, place: int) -> tuple[int, int]:
    """The number at an offset, and the offset behind it."""
    value, shift = 0, 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at offset {place} does not end")


def _node(node: Message) -> Node:
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_NAME: [], NODE_OP_TYPE: []}
    for field, value in node.fields():
        if field in texts and isinstance(value, Message):
            texts[field].append(value.decoded())
    name, operator = ("".join(texts[field][-1:]) for field in (NODE_NAME, NODE_OP_TYPE))
    return Node(name, operator, tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]))


def _value(value: Message) -> TensorInfo:
    """Name, shape and type of a ValueInfoProto."""
    kind, shape = "", tuple[int | str, ...]()
    for declared in value.all(VALUE_TYPE):
        for field, content in declared.fields():
            if field == TYPE_TENSOR and isinstance(content, Message):
                number = content.number(TENSOR_TYPE_ELEMENT)
                kind = DTYPES.get(number, f"type{number}")
                shape = tuple(
                    dimension(dim.number(DIM_VALUE), dim.text(DIM_NAME), axis)
                    for sizes in content.all(TENSOR_TYPE_SHAPE)
                    for axis, dim in enumerate(sizes.all(SHAPE_DIM))
                )
            elif field in CONTAINERS:
                kind = CONTAINERS[field]
    return TensorInfo(name=value.text(VALUE_NAME), shape=shape, dtype=kind or "type0")
