"""Reading, checking and writing ONNX files, and where a node came from in the user's model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines.file_kind import require_onnx
from edgeship.engines.onnx_file import CONTAINERS, DTYPES, dimension
from edgeship.errors import MissingExtra, ModelError
from edgeship.files import storage_errors
from edgeship.prepare import large
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import onnx

STACK_TRACE = "pkg.torch.onnx.stack_trace"
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
CLASS_HIERARCHY = "pkg.torch.onnx.class_hierarchy"
FX_NODE = "pkg.torch.onnx.fx_node"


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
        ModelError: Absent, truncated, not ONNX, without outputs, of an operator set or a type that edgeship cannot
            work with, or its external data files are not where they should be.
    """
    import_onnx("reading an ONNX file")
    import onnx
    from google.protobuf.message import DecodeError

    if path.is_dir():
        raise ModelError(f"{path} is a folder", expected="an .onnx file", do="name the file inside it")
    if not path.is_file():
        raise ModelError(f"no ONNX file at {path}", do="check the path; edgeship export writes an ONNX file")
    require_onnx(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not an ONNX file: {one_line(error)}",
            do="export or copy it again and compare its size with the original",
        ) from None
    if not model.graph.output:
        raise ModelError(
            f"{path} holds no graph", expected="an ONNX model with at least one output", do="export it again"
        )
    _refuse_versions(model, path)
    _refuse_types(model)
    _refuse_oddities(model)
    missing = [name for name in external_files(model) if not (path.parent / name).is_file()]
    if missing:
        raise ModelError(
            f"{path} keeps its weights in {', '.join(missing)}, not found beside it",
            expected=f"external data files in {path.parent}",
            do="move them back beside the .onnx, or save the model again as one file",
        )
    return model


def _refuse_versions(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    newest, opset = onnx.defs.onnx_opset_version(), opset_of(model)
    if opset > newest:
        raise ModelError(
            f"{path} has opset {opset}",
            expected=f"opset {newest} or earlier, which onnx {onnx.__version__} knows",
            do="install a newer onnx, or export it again with opset_version=18",
        )
    imported = sorted({entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")})
    if len(imported) > 1:
        raise ModelError(
            f"{path} imports the standard operators of several opsets: {', '.join(map(str, imported))}",
            expected="one version for all nodes",
            do="export it again with opset_version=18",
        )
    if not imported and any(node.domain in ("", "ai.onnx") for node in model.graph.node):
        raise ModelError(
            f"{path} does not say which opset its nodes belong to",
            expected="opset_import with a version of the standard operators",
            do="export it again with opset_version=18",
        )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path} has IR version {model.ir_version}",
            expected=f"IR version {onnx.IR_VERSION} or earlier, which onnx {onnx.__version__} knows",
            do="install a newer onnx, or export it again",
        )


TYPES = frozenset((
    "float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
))  # fmt: skip
"""Types of inputs and outputs that the engines and numpy share."""
ARTICLES = {kind: "an" if kind[0] in "aeiou" else "a" for kind in CONTAINERS.values()}
TYPE_REMEDIES = {
    "bfloat16": "convert the model to float32 before the export: model.float(); precision is chosen later",
    "sequence": "stack or concatenate the tensors inside the model, or take and return them one by one",
    "optional": "take or return the tensor itself",
    "type0": "export it again, or declare the type: onnx.helper.make_tensor_value_info",
    "str": "move text out of the model",
}


def _refuse_types(model: onnx.ModelProto) -> None:
    """Refuse inputs and outputs that no engine takes."""
    for what, tensors in (("input", inputs_of(model)), ("output", outputs_of(model))):
        for info in tensors:
            if info.dtype not in TYPES:
                kind = f"is {ARTICLES.get(info.dtype, 'of type')} {info.dtype}"
                raise ModelError(
                    f"the {what} {info.name!r} {'declares no type' if info.dtype == 'type0' else kind}",
                    expected=f"tensors of {', '.join(sorted(TYPES))}",
                    do=TYPE_REMEDIES.get(info.dtype, "cast it inside the model to a type that engines take"),
                )


def _refuse_oddities(model: onnx.ModelProto) -> None:
    """Refuse what no engine takes: an output that is listed twice, recursive functions, weights in sparse form."""
    names = Counter(value.name for value in model.graph.output)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise ModelError(
            f"the output {twice[0]!r} is listed {names[twice[0]]} times",
            expected="outputs with names of their own",
            do="return the tensor once, or a copy of it: x.clone()",
        )
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in function.node}
        for function in model.functions
    }
    while leaves := [key for key, called in calls.items() if not called & calls.keys()]:
        for key in leaves:
            del calls[key]
    if calls:
        listed = ", ".join(sorted(name for _, name in calls))
        raise ModelError(f"the local functions {listed} call one another in a circle", do="export the model again")
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(
            f"the weights {name!r} are stored as a sparse tensor",
            expected="dense weights",
            do="export the model with dense weights: weight.to_dense()",
        )


def random_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that draw random numbers, so that no two answers of the graph are comparable."""
    return [node for node in model.graph.node if node.op_type in RANDOM and node.domain in ("", "ai.onnx")]


RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


def refuse_random(model: onnx.ModelProto) -> None:
    """Refuse a graph that draws random numbers.

    Raises:
        ModelError: Names the nodes and where they come from.
    """
    drawn = random_nodes(model)
    if drawn:
        listed = ", ".join(f"{node.op_type} {node.name or node.output[0]!r}" for node in drawn[:3])
        where = place(drawn[0])
        raise ModelError(
            f"the graph draws random numbers ({listed}{f', from {where}' if where else ''}): "
            "two runs on the same input differ, so nothing can be compared or shipped",
            do="export the model in eval mode with dropout and sampling off, or make the noise an input",
        )


def one_line(error: Exception, limit: int = 400) -> str:
    """An exception's words on one line, without source places of a C++ library."""
    return re.sub(r"^(/\S+:\d+: )?(\w+: )?(Assertion `[^`]*` failed: )?", "", " ".join(str(error).split()))[:limit]


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
    _free_axes(model)
    refuse_random(model)
    return model


def declares_empty(model: onnx.ModelProto) -> bool:
    """Whether a size of an input is declared as 0 or below."""
    return any(
        dim.HasField("dim_value") and dim.dim_value <= 0
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim
    )


def _free_axes(model: onnx.ModelProto) -> None:
    """Clear sizes that are declared as 0 or below: dynamic axes, which onnxruntime would take for empty ones."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.Clear()


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files, relative to the .onnx, that hold its external data."""
    import onnx

    names = []
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            names += [entry.value for entry in tensor.external_data if entry.key == "location"]
    return sorted(set(names))


def save_onnx(model: onnx.ModelProto, path: Path, folder: Path | None = None) -> None:
    """Write a model as one file, or with one data file beside it when it exceeds protobuf's 2 GiB.

    Args:
        folder: Where the files lie that hold weights of ``model``, if not all are in it.

    Raises:
        StorageError: The place cannot be written.
    """
    import onnx

    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, weights = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.data.tmp")
        try:
            if large.too_large(model, apart=folder is not None):
                large.write_apart(model, temporary, weights, name=data_of(path).name, folder=folder)
                weights.replace(data_of(path))
            else:
                if folder is not None:
                    onnx.load_external_data_for_model(model, str(folder))
                onnx.save(model, str(temporary))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            weights.unlink(missing_ok=True)
            raise


def data_of(path: Path) -> Path:
    """Where the weights of the ONNX file ``path`` lie, if it is too large to hold them."""
    return path.with_name(f"{path.name}.data")


def check_onnx(model: onnx.ModelProto, what: str) -> None:
    """Check a graph against the ONNX specification, with shape inference; one that is too large without its weights.

    Raises:
        ModelError: The checker's words, one line.
    """
    import onnx

    apart = large.too_large(model) or any(tensor.external_data for tensor in model.graph.initializer)
    light = large.without_weights(model) if apart else model
    try:
        onnx.checker.check_model(light, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{what} is not a valid ONNX graph: {one_line(error)}", do="export it again, or report the graph"
        ) from None


def inferred(model: onnx.ModelProto, *, declared: bool = True) -> onnx.ModelProto:
    """A copy with the shapes of inner tensors and outputs as far as they follow from the inputs; without weights.

    Args:
        declared: Whether to begin with the shapes that the file declares for inner tensors and outputs.
    """
    import onnx

    bare = large.without_values(model)
    if not declared:
        del bare.graph.value_info[:]
    for value in bare.graph.output:
        if not declared and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return bare


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


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The stored tensors by name: initializers and the values of Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    return found


def count(number: int, noun: str) -> str:
    """``3 nodes``, ``1 node``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
