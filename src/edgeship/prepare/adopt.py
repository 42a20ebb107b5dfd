"""Taking in an ONNX file that someone else made: refused in one sentence, or brought to what the other stages expect.

Everything that is changed is said in a note, and a changed graph is compared with the original on seeded inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import ModelError
from edgeship.prepare import graph, large
from edgeship.prepare.child import in_child
from edgeship.prepare.inferred_graph import lift_constants
from edgeship.prepare.inputs import Known, accepted_feeds
from edgeship.prepare.running import RunError, Running
from edgeship.prepare.tidy import distinct_names, fix_channels, sort_nodes
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""The oldest operator set that the later stages work on; older graphs are converted to it."""
IR_VERSION = 8
"""The IR version of opset 18. Below 4, weights had to stand among the inputs."""
TOLERANCE = 1e-4


def adopt(path: Path, known: Known, opset: int = OPSET) -> tuple[onnx.ModelProto, list[str]]:
    """Read an ONNX file and bring it to operator set ``opset`` or later, with declared shapes that are true.

    Args:
        path: The file.
        known: Sizes, ranges and real values of the inputs, for the runs that compare.
        opset: The operator set that older graphs are converted to.

    Returns:
        The graph and a note for each change.

    Raises:
        ModelError: Not a readable graph, or one that cannot be brought there; names the cause.
    """
    original = graph.load_onnx(path)
    _require_numbers(original)
    _require_shapes(original, known)
    notes = [*distinct_names(original), *fix_channels(original)]
    model, written_out = _without_functions(original)
    notes += written_out
    notes += sort_nodes(model)
    notes += _without_listed_weights(model)
    if large.too_large(model):
        lift_constants(model)  # weights lie in a file beside the graph as initializers alone
    if graph.opset_of(model) == 0 and all(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        model.opset_import.add(version=opset)  # of no node: what edgeship adds needs the standard operators
    if graph.opset_of(model) < opset:
        model, converted = _converted(model, opset)
        notes += converted
    notes += drop_wrong_shapes(model)
    _declare_outputs(model, known)
    graph.check_onnx(model, str(path))
    if notes:
        _require_equal(original, model, known)
    return model, notes


def _require_numbers(model: onnx.ModelProto) -> None:
    """Refuse weights that hold NaN."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            continue
        try:
            values = numpy_helper.to_array(tensor)
        except ValueError as error:
            raise ModelError(
                f"the weights {tensor.name!r} do not fit their shape {list(tensor.dims)}: {error}",
                expected="a whole file",
                do="export it again",
            ) from None
        bad = int(np.isnan(values).sum())
        if bad:
            raise ModelError(
                f"the weights {tensor.name!r} hold NaN in {bad} of {values.size} places",
                expected="finite weights",
                do="take a checkpoint from before the training diverged, and export it again",
            )


def _require_shapes(model: onnx.ModelProto, known: Known) -> None:
    """Refuse an input of which not even the number of axes is declared, unless real inputs are given."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        if value.name not in weights and not tensor.HasField("shape") and known.feeds is None:
            raise ModelError(
                f"the input {value.name!r} declares no shape, not even how many axes it has",
                expected="a shape with a size or a name for each axis",
                do="export it again with the shape of the input; onnx.helper.make_tensor_value_info declares one",
            )


def _without_functions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with its local functions written out: most tools do not follow them."""
    if not model.functions:
        return model, []
    import onnx

    names = ", ".join(sorted(function.name for function in model.functions)[:5])
    try:
        inlined = large.inlined(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"the local functions {names} cannot be written out: {graph.one_line(error)}") from None
    return inlined, [f"local functions were written out: {names}"]


def _without_listed_weights(model: onnx.ModelProto) -> list[str]:
    """Take weights off the list of inputs, where IR 3 demanded them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name in weights]
    for value in listed:
        model.graph.input.remove(value)
    old = model.ir_version
    if old < IR_VERSION:
        model.ir_version = IR_VERSION
    if not listed:
        return []
    return [f"{len(listed)} weights were listed as inputs (IR version {old}) and are constants now"]


def _converted(model: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, list[str]]:
    """The graph in a newer operator set; onnx's converter runs in a process of its own, which may die."""
    old = graph.opset_of(model)
    if large.too_large(model):
        raise ModelError(
            f"opset {old} in a graph of more than 2 GiB, which onnx cannot convert",
            expected=f"opset {opset} or later",
            do=f"export it again with opset_version={opset}",
        )
    try:
        data = in_child(_convert, model.SerializeToString(), opset)
    except ModelError as error:
        raise ModelError(
            f"the graph has opset {old}, and onnx cannot convert it to {opset}: {error.found}",
            expected=f"opset {opset} or later",
            do=f"export it again with opset_version={opset}",
        ) from None
    import onnx

    newer = onnx.ModelProto.FromString(data)
    _keep_declared(model, newer)
    return newer, [f"converted from opset {old} to {opset} by onnx {onnx.__version__}"]


def _convert(data: bytes, opset: int) -> bytes:
    import onnx
    from onnx import version_converter

    try:
        return bytes(version_converter.convert_version(onnx.ModelProto.FromString(data), opset).SerializeToString())
    except (onnx.checker.ValidationError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(graph.one_line(error)) from None


def _keep_declared(old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """The converter leaves out what its own graph type does not hold: other domains, IR version, producer."""
    kept = {entry.domain for entry in new.opset_import}
    new.opset_import.extend(entry for entry in old.opset_import if entry.domain not in {*kept, "", "ai.onnx"})
    new.ir_version = max(new.ir_version, IR_VERSION)
    new.producer_name = new.producer_name or old.producer_name


def drop_wrong_shapes(model: onnx.ModelProto) -> list[str]:
    """Take declared shapes of inner tensors and outputs that contradict the operators out of the graph.

    Returns:
        A note that names what was dropped.
    """
    inferred = graph.inferred(model, declared=False)
    real = {value.name: graph.tensor_info(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    wrong = [
        value.name
        for value in model.graph.value_info
        if value.name in real and _contradicts(graph.tensor_info(value), real[value.name])
    ]
    for value in [value for value in model.graph.value_info if value.name in wrong]:
        model.graph.value_info.remove(value)
    for value in model.graph.output:
        if value.name in real and _contradicts(graph.tensor_info(value), real[value.name]):
            wrong.append(value.name)
            value.type.tensor_type.ClearField("shape")
            value.type.tensor_type.shape.CopyFrom(
                next(item for item in inferred.graph.output if item.name == value.name).type.tensor_type.shape
            )
    if not wrong:
        return []
    some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return [f"declared shapes that contradict the operators were dropped: {some}"]


def _declare_outputs(model: onnx.ModelProto, known: Known) -> None:
    """Give outputs without a declared shape one: what follows from the inputs, else the rank that a run shows."""
    missing = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if not missing:
        return
    shapes = {value.name: value.type.tensor_type.shape for value in graph.inferred(model).graph.output}
    unknown = []
    for value in missing:
        if shapes[value.name].dim:
            value.type.tensor_type.shape.CopyFrom(shapes[value.name])
        else:
            unknown.append(value)
    if unknown:
        running, names = Running(model, optimize=False), [value.name for value in unknown]
        feeds = known.feeds if known.feeds is not None else _feeds(model, running, known)
        for value, answer in zip(unknown, running.run(names, feeds), strict=True):
            value.type.tensor_type.shape.SetInParent()
            for _ in range(answer.ndim):
                value.type.tensor_type.shape.dim.add()


def _contradicts(declared: TensorInfo, real: TensorInfo) -> bool:
    """Whether two shapes cannot be of one tensor. A shape without axes may be one that is not known."""
    if not declared.shape or not real.shape:
        return False
    if len(declared.shape) != len(real.shape):
        return True
    pairs = zip(declared.shape, real.shape, strict=True)
    return any(isinstance(one, int) and isinstance(other, int) and one != other for one, other in pairs)


def _require_equal(original: onnx.ModelProto, changed: onnx.ModelProto, known: Known) -> None:
    """Compare the changed graph with the file as it came.

    Raises:
        ModelError: The answers differ, or the original does not run.
    """
    try:
        before = Running(original)
    except ModelError as error:
        raise ModelError(
            f"the graph has opset {graph.opset_of(original)}, and its conversion cannot be checked: {error.found}",
            expected="a graph that onnxruntime runs as it comes",
            do=f"export it again with opset_version={OPSET}",
        ) from None
    outputs = [info.name for info in graph.outputs_of(original)]
    feeds = known.feeds if known.feeds is not None else _feeds(original, before, known)
    for name, one, other in zip(outputs, before.run(outputs, feeds), Running(changed).run(outputs, feeds), strict=True):
        if not equal(one, other, TOLERANCE):
            raise ModelError(
                f"the converted graph answers differently: output {name!r}",
                expected=f"equal answers within rtol = atol = {TOLERANCE}",
                do="export it again with opset_version=18",
            )


def _feeds(model: onnx.ModelProto, running: Running, known: Known) -> Mapping[str, Any]:
    """Seeded feeds of two rows, or of one where the graph takes no two."""
    try:
        return accepted_feeds(model, running, 2, known)[0]
    except RunError:
        return accepted_feeds(model, running, 1, known)[0]


def equal(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two outputs agree within ``rtol = atol = tolerance``; text and empty ones exactly."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True))


def fix_axes(model: onnx.ModelProto, shapes: Mapping[str, Iterable[int | str]]) -> list[str]:
    """Give dynamic axes of inputs the fixed sizes that the user declared, wherever an axis of that name stands.

    Returns:
        A note for each input that was changed.

    Raises:
        ModelError: A declared shape contradicts the file's.
    """
    notes, named = [], dict[str, int]()
    for value in model.graph.input:
        info = graph.tensor_info(value)
        wanted = tuple(shapes.get(info.name, info.shape))
        clash = len(wanted) != len(info.shape) or any(
            isinstance(ours, int) and isinstance(theirs, int) and ours != theirs
            for ours, theirs in zip(wanted, info.shape, strict=False)
        )
        if clash:
            raise ModelError(
                f"input {info.name!r} has the shape {list(info.shape)} in the file, and {list(wanted)} was asked for",
                do="export the model at that size, or correct the declared shape (or preprocess.size)",
            )
        dims = value.type.tensor_type.shape.dim
        for dim, ours, theirs in zip(dims, wanted, info.shape, strict=True):
            if isinstance(ours, int) and isinstance(theirs, str):
                if dim.dim_param:
                    named[theirs] = ours
                dim.dim_value = ours
        if wanted != info.shape and any(isinstance(axis, str) for axis in info.shape):
            notes.append(f"input {info.name!r} is fixed to {list(graph.tensor_info(value).shape)}")
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
    if notes:
        del model.graph.value_info[:]
        outputs = {value.name: value for value in graph.inferred(model).graph.output}
        for value in model.graph.output:
            value.CopyFrom(outputs[value.name])
    return notes
