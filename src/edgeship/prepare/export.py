"""PyTorch → ONNX through torch.export, with the real tensor names read back.

The dynamo exporter: https://docs.pytorch.org/docs/stable/onnx_export.html. Dynamic axes stand only where the
config names them; everything else is fixed, because a shape range costs TensorRT kernels.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship import config
from edgeship.config import InputSpec
from edgeship.data.feeds import known_shapes
from edgeship.errors import ExportError, ModelError
from edgeship.prepare import captured, export_errors, graph, model
from edgeship.prepare.adopt import adopt, fix_axes
from edgeship.prepare.inputs import NOTHING, Known
from edgeship.prepare.steady import require_steady
from edgeship.results import Artifact, Exported

if TYPE_CHECKING:
    import onnx

MULTIPLE = 32
"""Dynamic heights and widths are traced as multiples of this where torch cannot express them freely."""
STRICT = "traced by TorchDynamo: a run of the code makes a plain number of an axis that is dynamic, as len(x) does"


def export(
    settings: config.Model,
    root: Path,
    target: Path,
    preprocess: config.Preprocess | None = None,
    known: Known = NOTHING,
) -> Exported:
    """Write ``target`` from the user's model.

    Args:
        settings: The ``[model]`` table.
        root: The folder that module sources are imported from.
        target: The .onnx file to write.
        preprocess: Its ``size``, where the user wrote one, fixes height and width of the image input.
        known: Sizes of dynamic axes, for the runs that try the model.

    Raises:
        ModelError: The source, the weights or the inputs are wrong, or the outputs are not finite.
        ExportError: An operator does not export, or an axis named dynamic came out fixed.
    """
    if model.is_onnx(settings):
        return _adopt(settings, target, preprocess, known)
    loaded, notes = load_sized(settings, root, preprocess)
    shapes, outputs = model.accepted_shapes(loaded, known.shapes)
    if not outputs:
        raise ModelError("the model returns no tensor", expected="a tensor, or a tuple, list or dict of tensors")
    model.require_finite(outputs, "the model on seeded inputs")
    require_steady(loaded, loaded.noise(shapes, seed=0))
    proto, _, said = to_onnx(loaded, loaded.noise(shapes, seed=0), [name for name, _ in outputs], settings.opset)
    _require_dynamic(proto, loaded.inputs)
    graph.shorten_places(proto, root)
    graph.check_onnx(proto, "the exported model")
    graph.save_onnx(proto, target)
    import torch

    wanted = [*loaded.inputs, *(name for name, _ in outputs)]
    given = [item.name for item in (*graph.inputs_of(proto), *graph.outputs_of(proto))]
    parameters = sum(parameter.numel() for parameter in loaded.module.parameters())
    return _describe(
        proto,
        target,
        source=settings.source,
        exporter=f"torch.onnx {torch.__version__}",
        parameters=parameters,
        renamed={ours: theirs for ours, theirs in zip(wanted, given, strict=False) if ours != theirs},
        notes=(*notes, *said),
    )


def load_sized(
    settings: config.Model, root: Path, preprocess: config.Preprocess | None
) -> tuple[model.Loaded, list[str]]:
    """The user's model with the sizes that it is exported with, and notes about them. Raises ModelError."""
    return _fix_size(model.load(settings, root), preprocess)


def _fix_size(loaded: model.Loaded, preprocess: config.Preprocess | None) -> tuple[model.Loaded, list[str]]:
    """The model with height and width of its image input as ``preprocess.size`` has them."""
    inputs, notes = dict(loaded.inputs), []
    for name, shape in known_shapes(loaded.tensors, preprocess).items():
        declared = inputs[name].shape
        fixed = tuple(
            axis if place == 0 or isinstance(axis, int) else size
            for place, (axis, size) in enumerate(zip(declared, shape, strict=True))
        )
        if fixed != declared:
            inputs[name] = inputs[name].model_copy(update={"shape": fixed})
            notes.append(f"input {name!r} is fixed to {list(fixed)} by preprocess.size")
    return replace(loaded, inputs=inputs), notes


def _adopt(settings: config.Model, target: Path, preprocess: config.Preprocess | None, known: Known) -> Exported:
    """Take the user's own ONNX file; names stay as they are, and dynamic axes where the config does not fix them."""
    source = Path(settings.source)
    known = replace(known, bounds={**known.bounds, **model.bounds_of(settings.inputs)})
    proto, notes = adopt(source, known, settings.opset)
    if settings.weights is not None:
        raise ModelError("model.weights is set, and an .onnx carries its own weights", do="remove model.weights")
    inputs = graph.inputs_of(proto)
    unknown = sorted(set(settings.inputs) - {item.name for item in inputs})
    if unknown:
        raise ModelError(
            f"model.inputs names {', '.join(unknown)}, which {source.name} does not have",
            expected=f"one of {', '.join(item.name for item in inputs)}",
        )
    shapes: dict[str, Any] = {name: spec.shape for name, spec in settings.inputs.items()}
    for name, shape in known_shapes(inputs, preprocess).items():
        axes = shapes.get(name) or next(info.shape for info in inputs if info.name == name)
        shapes[name] = (axes[0], *shape[1:])
    notes += fix_axes(proto, shapes)
    graph.save_onnx(proto, target)
    parameters = sum(math.prod(tensor.dims) for tensor in proto.graph.initializer)
    return _describe(
        proto,
        target,
        source=str(source),
        exporter=proto.producer_name or "unknown",
        parameters=parameters,
        renamed={},
        notes=tuple(notes),
    )


def _describe(proto: onnx.ModelProto, target: Path, **facts: Any) -> Exported:
    return Exported(
        model=Artifact.of(target, target.parent),
        inputs=graph.inputs_of(proto),
        outputs=graph.outputs_of(proto),
        opset=graph.opset_of(proto),
        nodes=len(proto.graph.node),
        **facts,
    )


def to_onnx(
    loaded: model.Loaded, arrays: dict[str, model.Array], output_names: list[str], opset: int
) -> tuple[onnx.ModelProto, Any, list[str]]:
    """Export and return the ONNX model, the decomposed ExportedProgram that its nodes came from, and notes.

    Raises:
        ExportError: Names the operator or the axis, its place in the user's code, and the remedies.
    """
    with _quiet_exporter():
        program, notes = _capture(loaded, arrays)
        call = _Translation(tuple(loaded.inputs), tuple(output_names), opset)
        captured.drop_checks(program)
        try:
            result = call.of(program, arrays)
        except ExportError as error:
            if not (export_errors.of_a_view(error) and captured.settle_layouts(program)):
                raise
            result = call.of(program, arrays)
    proto: onnx.ModelProto = result.model_proto
    export_errors.require_opset(proto, opset)
    _name_axes(proto, loaded.inputs)
    return proto, result.exported_program, notes


@dataclass(frozen=True)
class _Translation:
    """How a captured program is translated to ONNX."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int

    def of(self, program: Any, arrays: dict[str, model.Array]) -> Any:
        """torch's ONNXProgram. Raises ExportError."""
        import torch

        tensors = tuple(torch.from_numpy(array) for array in arrays.values())
        try:
            return torch.onnx.export(
                program,
                tensors,
                dynamo=True,
                opset_version=self.opset,
                input_names=list(self.inputs),
                output_names=list(self.outputs),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise export_errors.translation_error(error) from error


def _capture(loaded: model.Loaded, arrays: dict[str, model.Array]) -> tuple[Any, list[str]]:
    """The ExportedProgram, from a copy of the module that was never called: modules keep tensors of their first call.

    Axes beside the batch are traced freely, then as multiples of :data:`MULTIPLE`, which torch can always express.
    Where an axis still comes out as one size, TorchDynamo reads the code instead of running it: a run of ``len(x)``
    gives Python a plain number.
    """
    if loaded.program is not None:
        return loaded.program, []
    beside = [axis for spec in loaded.inputs.values() for axis in spec.shape[1:] if isinstance(axis, str)]
    refused: list[tuple[Exception, export_errors.Traced]] = []
    for multiple in (1, MULTIPLE) if beside else (1,):
        traced = _to_trace(loaded, arrays, multiple)
        try:
            program = traced.program()
        except Exception as error:  # noqa: BLE001 - tracing runs the user's forward(), which may raise anything
            refused.append((error, traced))
        else:
            note = f"{', '.join(dict.fromkeys(beside))}: traced as multiples of {MULTIPLE}; use no other sizes"
            return program, [] if multiple == 1 else [note]
    first, traced = refused[0]
    if export_errors.of_a_constant(first):
        with suppress(Exception):  # as above; what is told is why the usual way failed
            return _to_trace(loaded, arrays, 1).program(strict=True), [STRICT]
    raise export_errors.capture_error(first, traced) from first


def _to_trace(loaded: model.Loaded, arrays: dict[str, model.Array], multiple: int) -> export_errors.Traced:
    import torch

    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    declared = {name: spec.shape for name, spec in loaded.inputs.items()}
    return export_errors.Traced(loaded.module, tensors, _dynamic_shapes(loaded, multiple), declared)


def _dynamic_shapes(loaded: model.Loaded, multiple: int) -> Any:
    """torch's ``dynamic_shapes`` for the declared inputs, as forward() takes its arguments; None: all fixed."""
    import torch

    dims: dict[str, Any] = {}
    shapes: list[dict[int, Any] | None] = []
    for spec in loaded.inputs.values():
        axes: dict[int, Any] = {}
        for index, axis in enumerate(spec.shape):
            if not isinstance(axis, str):
                continue
            if index == 0:
                axes[index] = dims.setdefault(axis, torch.export.Dim(axis, min=1))
            elif multiple == 1:
                axes[index] = dims.get(axis, torch.export.Dim.DYNAMIC)
            else:
                axes[index] = dims.setdefault(axis, multiple * torch.export.Dim(f"_{axis}", min=1))
        shapes.append(axes or None)
    if not any(shapes):
        return None
    kinds = [parameter.kind for parameter in inspect.signature(loaded.module.forward).parameters.values()]
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(shapes)
    if first < len(shapes):  # forward(x, *rest): torch wants the rest as one tuple, where there is a rest
        return (*shapes[:first], tuple(shapes[first:]))
    return tuple(shapes)


def _name_axes(proto: onnx.ModelProto, inputs: dict[str, InputSpec]) -> None:
    """Give dynamic axes the user's names, or their tensor's: the exporter calls them ``s77`` or ``4*Min(300, u0)``."""
    names: dict[str, str] = {}
    for value, spec in zip(proto.graph.input, inputs.values(), strict=False):
        for axis, declared in zip(value.type.tensor_type.shape.dim, spec.shape, strict=False):
            if axis.dim_param and isinstance(declared, str):
                names[axis.dim_param] = declared
    for value in proto.graph.output:
        for index, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.dim_param and axis.dim_param not in names:
                names[axis.dim_param] = re.sub(r"\W", "_", f"{value.name}_axis{index}")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
            elif not axis.dim_param.isidentifier():
                axis.ClearField("dim_param")


def _require_dynamic(proto: onnx.ModelProto, inputs: dict[str, InputSpec]) -> None:
    for info, (name, spec) in zip(graph.inputs_of(proto), inputs.items(), strict=True):
        for index, (axis, declared) in enumerate(zip(info.shape, spec.shape, strict=True)):
            if isinstance(declared, str) and isinstance(axis, int):
                raise ExportError(
                    f"the export froze axis {index} of input {name!r} ({declared!r}) at {axis}",
                    expected=f"a dynamic axis {declared!r}, as [model.inputs.{name}] says",
                    do="find the code that fixes it (a reshape with a number), or give the axis a number in the config",
                )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's own log lines: what matters comes back as errors and results."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
