"""Node names of an ONNX file, read from its protobuf wire format: the target has no ``onnx`` package.

Only the five fields that tie an optimized graph back to the user's are read (onnx.proto3: ModelProto.graph = 7,
GraphProto.node = 1, NodeProto input = 1, output = 2, name = 3, op_type = 4); weights are skipped unread.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeship.errors import ModelError
from edgeship.results import TensorInfo

GRAPH, NODE, INPUT, OUTPUT, NAME, OP_TYPE = 7, 1, 1, 2, 3, 4
INITIALIZER, DATA_TYPE, TENSOR_NAME = 5, 2, 8
FLOAT, FLOAT16 = 1, 10
WEIGHTED = frozenset(("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return tuple(
                _node(data, *node)
                for number, *graph in _fields(data, 0, len(data))
                if number == GRAPH
                for kind, *node in _fields(data, graph[0], graph[1])
                if kind == NODE
            )
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path} is not a readable ONNX file: {error}",
            expected="a whole .onnx file",
            do="export it again: edgeship export",
        ) from None


def weights_are_half(path: Path) -> bool:
    """Whether every stored weight of a convolution or matrix product is FP16, and there is one.

    Raises:
        ModelError: The file is absent, empty or cut short.
    """
    return weight_types(path) == {FLOAT16}


def weight_types(path: Path) -> set[int]:
    """TensorProto.DataType of the stored weights of convolutions and matrix products. Raises ModelError."""
    used = {name for node in read_nodes(path) if node.operator in WEIGHTED for name in node.inputs[1:2]}
    return {kind for name, kind in _initializers(path) if name in used}


def _initializers(path: Path) -> list[tuple[str, int]]:
    """(name, TensorProto.DataType) of every initializer of the top-level graph."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = []
        for number, start, stop in _fields(data, 0, len(data)):
            if number != GRAPH:
                continue
            for kind, begin, end in _fields(data, start, stop):
                if kind == INITIALIZER:
                    name = "".join(
                        data[a:b].decode("utf-8") for field, a, b in _fields(data, begin, end) if field == TENSOR_NAME
                    )
                    found.append((name, _number(data, begin, end, DATA_TYPE)))
        return found


def _number(data: mmap.mmap, start: int, stop: int, wanted: int) -> int:
    """The value of a varint field between ``start`` and ``stop``; 0 where it is absent."""
    place = start
    while place < stop:
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            if number == wanted:
                return value
        elif kind == _BYTES:
            length, place = _varint(data, place)
            place += length
        else:
            place += 8 if kind == _FIXED64 else 4
    return 0


def _node(data: mmap.mmap, start: int, stop: int) -> Node:
    texts: dict[int, list[str]] = {INPUT: [], OUTPUT: [], NAME: [], OP_TYPE: []}
    for number, begin, end in _fields(data, start, stop):
        if number in texts:
            texts[number].append(data[begin:end].decode("utf-8"))
    name, operator = ("".join(texts[key][-1:]) for key in (NAME, OP_TYPE))
    return Node(name, operator, tuple(texts[INPUT]), tuple(texts[OUTPUT]))


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, begin, end) of each length-delimited field between ``start`` and ``stop``."""
    place = start
    while place < stop:
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, place = _varint(data, place)
            if place + length > stop:
                raise ValueError(f"a field of {length} bytes at offset {place} reaches beyond the end")
            yield number, place, place + length
            place += length
        elif kind == _VARINT:
            _, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind} at offset {place}")


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
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


Tensors = tuple[TensorInfo, ...]
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "str", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8_e4m3fn",
}  # fmt: skip
"""TensorProto.DataType → numpy's (or ml_dtypes') name."""


def read_inputs(path: Path) -> tuple[Tensors, Tensors]:
    """Inputs (without initializers) and outputs, by their own names.

    Raises:
        ModelError: Absent, empty, cut short, or no ONNX model.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _read(data)
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"{path} is not a readable ONNX file: {error}",
            expected="a whole .onnx file",
            do="export it again: edgeship export",
        ) from None
    if not found[1]:
        raise ModelError(
            f"{path} is no ONNX model: it has no graph with outputs",
            expected="an .onnx file",
            do="export it again: edgeship export",
        )
    return found


def _read(data: mmap.mmap) -> tuple[Tensors, Tensors]:
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    weights: set[str] = set()
    for number, begin, end in _fields(data, 0, len(data)):
        if number != 7:
            continue
        for kind, start, stop in _fields(data, begin, end):
            if kind == 5:
                weights.add(_text(data, start, stop, 8))
            elif kind == 11:
                inputs.append(_value(data, start, stop))
            elif kind == 12:
                outputs.append(_value(data, start, stop))
    return tuple(tensor for tensor in inputs if tensor.name not in weights), tuple(outputs)


def _value(data: mmap.mmap, start: int, stop: int) -> TensorInfo:
    name, kind, shape = "", 0, []
    for number, begin, end in _fields(data, start, stop):
        if number == 1:
            name = data[begin:end].decode("utf-8")
        elif number == 2:
            for tensor, first, last in _fields(data, begin, end):
                if tensor == 1:
                    kind = _number(data, first, last, 1)
                    dims = [part for part in _fields(data, first, last) if part[0] == 2]
                    shape = [_dim(data, a, b, i) for _, x, y in dims for i, (_, a, b) in enumerate(_fields(data, x, y))]
    return TensorInfo(name=name, shape=tuple(shape), dtype=DTYPES.get(kind, f"type{kind}"))


def _dim(data: mmap.mmap, start: int, stop: int, axis: int) -> int | str:
    size = _number(data, start, stop, 1)
    fixed = 0 < size < 1 << 63  # Paddle writes -1, which the wire format holds as 2**64 - 1
    return _text(data, start, stop, 2) or (size if fixed else f"axis{axis}")


def _text(data: mmap.mmap, start: int, stop: int, field: int) -> str:
    return next((data[a:b].decode("utf-8") for number, a, b in _fields(data, start, stop) if number == field), "")
