"""Reading, checking and writing ONNX files, and where a node came from in the user's model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines.onnx_file import DTYPES, dimension
from edgeship.errors import MissingExtra, ModelError
from edgeship.files import storage_errors
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import onnx

STACK_TRACE = "pkg.torch.onnx.stack_trace"
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
FX_NODE = "pkg.torch.onnx.fx_node"
PROTOBUF_LIMIT = 2**31 - 1


def import_onnx(what: str) -> Any:
    """The onnx package, or MissingExtra naming the ``host`` extra."""
    try:
        import onnx
    except ImportError:
        raise MissingExtra(what, "onnx", "host") from None
    return onnx


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its external data, which must lie beside it.

    Raises:
        ModelError: Absent, truncated, not ONNX, or its external data files are not where they should be.
    """
    import_onnx("reading an ONNX file")
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ModelError(f"no ONNX file at {path}", do="check the path; edgeship export writes an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not an ONNX file: {error}",
            do="export or copy it again and compare its size with the original",
        ) from None
    if not model.graph.node:
        raise ModelError(
            f"{path} holds no graph", expected="an ONNX model with at least one node", do="export it again"
        )
    missing = [name for name in external_files(model) if not (path.parent / name).is_file()]
    if missing:
        raise ModelError(
            f"{path} keeps its weights in {', '.join(missing)}, not found beside it",
            expected=f"external data files in {path.parent}",
            do="move them back beside the .onnx, or save the model again as one file",
        )
    return model


def load_onnx(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with its external data.

    Raises:
        ModelError: As :func:`read_onnx`, or the external data cannot be read.
    """
    model = read_onnx(path)
    import onnx

    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        raise ModelError(f"the external data of {path} cannot be read: {error}", do="export it again") from None
    return model


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files, relative to the .onnx, that hold its external data."""
    import onnx

    names = []
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            names += [entry.value for entry in tensor.external_data if entry.key == "location"]
    return sorted(set(names))


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file, or with one data file beside it when it exceeds protobuf's 2 GiB.

    Raises:
        StorageError: The place cannot be written.
    """
    import onnx

    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            if model.ByteSize() > PROTOBUF_LIMIT:
                onnx.save(model, str(temporary), save_as_external_data=True, location=f"{path.name}.data")
            else:
                onnx.save(model, str(temporary))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all stored tensors that lie in the graph itself, not in files beside it."""
    import onnx

    return sum(len(tensor.raw_data) for tensor in onnx.external_data_helper._get_all_tensors(model))


def check_onnx(model: onnx.ModelProto, what: str) -> None:
    """Check a graph against the ONNX specification, with shape inference.

    Raises:
        ModelError: The checker's words, one line.
    """
    import onnx

    if model.ByteSize() > PROTOBUF_LIMIT:
        return
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        words = " ".join(str(error).split())[:400]
        raise ModelError(
            f"{what} is not a valid ONNX graph: {words}", do="export it again, or report the graph"
        ) from None


def tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    """Name, shape and type of a graph input or output, by the rules of :mod:`edgeship.engines.onnx_file`."""
    kind = value.type.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        return TensorInfo(name=value.name, shape=(), dtype=kind.partition("_")[0])
    tensor = value.type.tensor_type
    shape = tuple(dimension(axis.dim_value, axis.dim_param, index) for index, axis in enumerate(tensor.shape.dim))
    return TensorInfo(name=value.name, shape=shape, dtype=DTYPES.get(tensor.elem_type, f"type{tensor.elem_type}"))


def inputs_of(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """The graph's inputs without its initializers."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return tuple(tensor_info(value) for value in model.graph.input if value.name not in weights)


def outputs_of(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """The graph's outputs."""
    return tuple(tensor_info(value) for value in model.graph.output)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def operators_of(model: onnx.ModelProto) -> dict[str, int]:
    """Operator kind → count, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def metadata(node: onnx.NodeProto) -> dict[str, str]:
    """The exporter's notes on a node."""
    return {item.key: item.value for item in node.metadata_props}


def place(node: onnx.NodeProto) -> str:
    """Where a node came from in the user's model: ``model.py:41 in forward (layer1.0.conv: Conv2d)``.

    Read from the PyTorch exporter's metadata; empty for graphs that carry none.
    """
    notes = metadata(node)
    parts = []
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', notes.get(STACK_TRACE, ""))
    own = [frame for frame in frames if "site-packages/torch/" not in frame[0]]
    if own:
        file, line, function = own[-1]
        parts.append(f"{Path(file).name}:{line} in {function}")
    scopes = re.findall(r"'([^']*)'", notes.get(NAME_SCOPES, ""))
    classes = re.findall(r"'([^']*)'", notes.get(CLASS_HIERARCHY, ""))
    if len(scopes) >= 2 and scopes[-2]:
        kind = classes[-2].rpartition(".")[2] if len(classes) >= 2 else ""
        parts.append(f"({scopes[-2]}: {kind})" if kind else f"({scopes[-2]})")
    return " ".join(parts)


def shorten_places(model: onnx.ModelProto, root: Path) -> None:
    """Cut the files of the exporter's stack traces short, in place: relative to ``root``, to the installed packages, or
    to their name. The graph is then the same wherever it is exported, and names no folder of the workstation."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop()
        for item in node.metadata_props:
            if item.key == STACK_TRACE:
                item.value = re.sub(r'File "([^"]+)"', lambda found: f'File "{_short(found[1], root)}"', item.value)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes.extend(inner.node)


def _short(file: str, root: Path) -> str:
    if file.startswith(f"{root}/"):
        return file.removeprefix(f"{root}/")
    _, installed, inside = file.rpartition("/site-packages/")
    return f"site-packages/{inside}" if installed else Path(file).name


def copy_metadata(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Give nodes of an edited graph the exporter's notes of the node that made the same tensor before."""
    notes = {name: node for node in before.graph.node if node.metadata_props for name in node.output if name}
    for node in after.graph.node:
        origin = next((notes[name] for name in node.output if name in notes), None)
        if origin is not None and not node.metadata_props:
            node.metadata_props.extend(origin.metadata_props)


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of the graph that also returns ``tensors``."""
    import onnx

    known = {value.name: value for value in model.graph.value_info}
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    present = {value.name for value in twin.graph.output} | {value.name for value in twin.graph.input}
    for name in tensors:
        if name not in present:
            twin.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
            present.add(name)
    return twin
