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
