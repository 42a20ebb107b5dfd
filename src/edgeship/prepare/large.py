"""Graphs beyond the 2 GiB of one protobuf message: how large one is, the same without its weights, and its files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes of weights that one protobuf message holds, with room for the graph itself."""
SMALL_TENSOR = 1024
"""Bytes up to which a tensor may be a shape, whose value shape inference needs."""
WEIGHTS = "edgeship.weights_sha256"
"""Metadata of a graph whose weights lie in a file beside it."""
_WIDTHS = {"float_data": 4, "int32_data": 4, "int64_data": 8, "double_data": 8, "uint64_data": 8}
_ALIGNED = 4096
"""Tensors in a data file begin at multiples of it, as the ONNX specification advises for mapping into memory."""


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values where they lie in the message itself, not in a file beside it; text is not counted."""
    typed = sum(width * len(getattr(tensor, name)) for name, width in _WIDTHS.items())
    return typed + (_raw_bytes(tensor) if tensor.HasField("raw_data") else 0)


def _raw_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's ``raw_data`` by its shape: reading the field copies it."""
    from onnx import helper

    try:
        return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # a type that onnx does not know
        return len(tensor.raw_data)


def apart_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values that lie in a file beside the graph."""
    return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), 0)


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all stored tensors that lie in the graph itself, not in files beside it."""
    import onnx

    return sum(map(tensor_bytes, onnx.external_data_helper._get_all_tensors(model)))


def too_large(model: onnx.ModelProto, *, apart: bool = False) -> bool:
    """Whether the graph with its weights is more than one protobuf message holds.

    Args:
        apart: Whether to count the weights in files beside it too.
    """
    beside = sum(map(apart_bytes, model.graph.initializer)) if apart else 0
    return weight_bytes(model) + beside > PROTOBUF_LIMIT


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the graph's initializers; the copy never holds them, so it costs none of their memory."""
    import onnx

    bare = onnx.ModelProto()
    _copy_fields(model, bare, leave="graph")
    _copy_fields(model.graph, bare.graph, leave="initializer")
    return bare


def _copy_fields(source: Message, target: Any, leave: str) -> None:
    for field, value in source.ListFields():
        if field.name == leave:
            continue
        if hasattr(value, "ListFields"):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with inputs in place of weights; small tensors, which may be shapes, stay."""
    from onnx import helper

    light = without_initializers(model)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor) <= SMALL_TENSOR and not tensor.external_data:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def without_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large weights have a type and a shape, and their values nowhere: enough to infer shapes."""
    import onnx

    bare = without_initializers(model)
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor) <= SMALL_TENSOR:
            bare.graph.initializer.append(tensor)
        else:
            bare.graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=onnx.TensorProto.EXTERNAL
            )
    return bare


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its local functions written out. Raises RuntimeError or ValueError as onnx's inliner does."""
    import onnx.inliner

    bare = without_initializers(model)
    done = onnx.inliner.inline_local_functions(bare)
    done.graph.initializer.extend(model.graph.initializer)
    return done


def write_apart(model: onnx.ModelProto, file: Path, data: Path, name: str, folder: Path | None = None) -> None:
    """Write the graph to ``file`` and its large weights to ``data``; ``model`` stays as it is.

    The graph looks for its weights in a file ``name`` beside it, to which the caller moves ``data``. ``onnx.save``
    would take the weights out of the model that it is given. The graph's file names the weights by their hash
    (:data:`WEIGHTS`), so that it is another file where they are others.

    Args:
        folder: Where the files lie that hold weights of ``model`` already.
    """
    digest = hashlib.sha256()
    bare = set_apart(model, data, name, digest.update, folder)
    import onnx

    kept = [item for item in bare.metadata_props if item.key != WEIGHTS]
    del bare.metadata_props[:]
    bare.metadata_props.extend([*kept, onnx.StringStringEntryProto(key=WEIGHTS, value=digest.hexdigest())])
    onnx.save(bare, str(file))


def set_apart(
    model: onnx.ModelProto,
    data: Path,
    name: str,
    seen: Callable[[bytes], object] = len,
    folder: Path | None = None,
) -> onnx.ModelProto:
    """A copy of the graph whose large weights are in the file ``data`` instead, which it knows as ``name``.

    Args:
        seen: Is given the bytes of each of these weights.
        folder: Where the files lie that hold weights of ``model`` already.
    """
    import onnx

    bare = without_initializers(model)
    with data.open("wb") as stream:
        for tensor in model.graph.initializer:
            raw = _raw(tensor, folder)
            if raw is None:
                bare.graph.initializer.append(tensor)
                continue
            seen(raw)
            entry = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            entry.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", name), *_append(stream, raw)):
                entry.external_data.add(key=key, value=str(value))
            bare.graph.initializer.append(entry)
    return bare


def _append(stream: IO[bytes], raw: bytes) -> Iterator[tuple[str, int]]:
    stream.write(bytes(-stream.tell() % _ALIGNED))
    yield "offset", stream.tell()
    yield "length", stream.write(raw)


def _raw(tensor: onnx.TensorProto, folder: Path | None = None) -> bytes | None:
    """The bytes for the data file; None for what stays in the graph: small tensors, and text."""
    from onnx import TensorProto, numpy_helper

    if folder is not None and tensor.data_location == TensorProto.EXTERNAL:
        places: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
        with (folder / places["location"]).open("rb") as stream:
            stream.seek(int(places["offset"]))
            return stream.read(int(places["length"]))
    if tensor.data_type == TensorProto.STRING or tensor_bytes(tensor) <= SMALL_TENSOR:
        return None
    if tensor.HasField("raw_data"):
        whole: bytes = tensor.raw_data
        return whole
    plain = numpy_helper.from_array(numpy_helper.to_array(tensor))  # of the fields by type, in the order of raw_data
    return bytes(plain.raw_data)
