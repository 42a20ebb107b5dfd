"""Inputs and outputs of an ONNX file, read from its protobuf wire format: the target has no ``onnx`` package.

onnx.proto3: ModelProto.graph = 7; GraphProto initializer = 5, input = 11, output = 12; TensorProto.name = 8;
ValueInfoProto name = 1, type = 2; TypeProto.tensor_type = 1; Tensor elem_type = 1, shape = 2; dim = 1;
Dimension dim_value = 1, dim_param = 2.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from edgeship.engines._onnx_nodes import _fields, _varint
from edgeship.errors import ModelError
from edgeship.results import TensorInfo

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
    return _text(data, start, stop, 2) or _number(data, start, stop, 1) or f"axis{axis}"


def _text(data: mmap.mmap, start: int, stop: int, field: int) -> str:
    return next((data[a:b].decode("utf-8") for number, a, b in _fields(data, start, stop) if number == field), "")


def _number(data: mmap.mmap, start: int, stop: int, field: int) -> int:
    """A varint field of a small message; 0 when it is not there."""
    place = start
    while place < stop:
        key, place = _varint(data, place)
        if key & 7 == 0:
            value, place = _varint(data, place)
            if key >> 3 == field:
                return value
        elif key & 7 == 2:
            length, place = _varint(data, place)
            place += length
        else:
            raise ValueError(f"unexpected wire type {key & 7} at offset {place}")
    return 0
