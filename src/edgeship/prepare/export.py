"""PyTorch → ONNX through torch.export, with the real tensor names read back.

The dynamo exporter: https://docs.pytorch.org/docs/stable/onnx_export.html. Dynamic axes stand only where the
config names them; everything else is fixed, because a shape range costs TensorRT kernels.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship import config
from edgeship.config import InputSpec
from edgeship.errors import ExportError, ModelError
from edgeship.prepare import graph, model
from edgeship.results import Artifact, Exported

if TYPE_CHECKING:
    import onnx

REMEDIES = (
    "rewrite the layer with supported operators",
    "move the operator into pre- or postprocessing, outside the graph",
    "write a TensorRT plugin (last resort: real work, on every target)",
)
"""For an operator that does not export, in the order to try."""


def export(settings: config.Model, root: Path, out: Path) -> Exported:
    """Write ``out/model.onnx`` from the user's model.

    Args:
        settings: The ``[model]`` table.
        root: The folder that module sources are imported from.
        out: An existing folder.

    Raises:
        ModelError: The source, the weights or the inputs are wrong, or the outputs are not finite.
        ExportError: An operator does not export, or an axis named dynamic came out fixed.
    """
    target = out / "model.onnx"
    if model.is_onnx(settings):
        return _adopt(Path(settings.source), settings, target)
    loaded = model.load(settings, root)
    shapes, outputs = model.accepted_shapes(loaded)
    arrays = loaded.noise(shapes, seed=0)
    if not outputs:
        raise ModelError("the model returns no tensor", expected="a tensor, or a tuple, list or dict of tensors")
    model.require_finite(outputs, "the model on seeded inputs")
    proto = to_onnx(loaded, arrays, [name for name, _ in outputs], settings.opset)[0]
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
    )


def _adopt(source: Path, settings: config.Model, target: Path) -> Exported:
    """Take the user's own ONNX file; dynamic axes and names stay as they are."""
    proto = graph.load_onnx(source)
    graph.check_onnx(proto, str(source))
    if settings.weights is not None:
        raise ModelError("model.weights is set, and an .onnx carries its own weights", do="remove model.weights")
    names = {item.name for item in graph.inputs_of(proto)}
    unknown = sorted(set(settings.inputs) - names)
    if unknown:
        raise ModelError(
            f"model.inputs names {', '.join(unknown)}, which {source.name} does not have",
            expected=f"one of {', '.join(sorted(names))}",
        )
    if graph.opset_of(proto) < settings.opset:
        raise ModelError(
            f"{source} has opset {graph.opset_of(proto)}",
            expected=f"opset {settings.opset} or later",
            do="export it again with opset_version=18, or convert it with onnx.version_converter",
        )
    graph.save_onnx(proto, target)
    import math

    count = sum(math.prod(tensor.dims) for tensor in proto.graph.initializer)
    return _describe(
        proto, target, source=str(source), exporter=proto.producer_name or "unknown", parameters=count, renamed={}
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
) -> tuple[onnx.ModelProto, Any]:
    """Export and return the ONNX model and the decomposed ExportedProgram that its nodes came from.

    Raises:
        ExportError: Names the operator or the axis, its place in the user's code, and the remedies.
    """
    import torch

    with _quiet_exporter():
        program = _capture(loaded, arrays)
        tensors = tuple(torch.from_numpy(array) for array in arrays.values())
        try:
            result: Any = torch.onnx.export(
                program,
                tensors,
                dynamo=True,
                opset_version=opset,
                input_names=list(loaded.inputs),
                output_names=output_names,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise _export_error(error) from error
    proto: onnx.ModelProto = result.model_proto
    _name_axes(proto, loaded.inputs)
    return proto, result.exported_program


def _capture(loaded: model.Loaded, arrays: dict[str, model.Array]) -> Any:
    import torch

    if loaded.program is not None:
        return loaded.program
    dims: dict[str, Any] = {}
    shapes = []
    for spec in loaded.inputs.values():
        axes = {}
        for index, axis in enumerate(spec.shape):
            if isinstance(axis, str):
                axes[index] = dims.setdefault(axis, torch.export.Dim(axis, min=1))
        shapes.append(axes or None)
    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    dynamic = tuple(shapes) if any(shapes) else None
    try:
        return torch.export.export(loaded.module, tensors, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        raise _capture_error(error, loaded.inputs) from error


def _capture_error(error: Exception, inputs: dict[str, InputSpec]) -> ExportError:
    words = str(error)
    frozen = re.search(
        r"specialized it to be a constant|inferred to be a constant|Constraints violated \((\w+)\)", words
    )
    if frozen:
        named = sorted({axis for spec in inputs.values() for axis in spec.shape if isinstance(axis, str)})
        name = next((axis for axis in named if re.search(rf"\b{axis}\b", words)), ", ".join(named))
        return ExportError(
            f"the export froze the axis {name!r}: the model's code uses its size as a constant{_code_place(words)}",
            expected=f"code that works for any size of {name!r}",
            do="use x.shape[0] or -1 instead of a number in view/reshape/expand, "
            "or give the axis a number in [model.inputs]",
        )
    first = next((line.strip() for line in words.splitlines() if line.strip()), type(error).__name__)
    return ExportError(
        f"torch.export cannot trace the model: {first[:300]}{_code_place(words)}",
        do="; or ".join(REMEDIES[:2]) + " (data-dependent control flow needs torch.where or torch.cond)",
    )


def _code_place(words: str) -> str:
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', words)
    own = [frame for frame in frames if "/torch/" not in frame[0]]
    return f", at {Path(own[-1][0]).name}:{own[-1][1]} in {own[-1][2]}" if own else ""


def _export_error(error: Exception) -> ExportError:
    words = str(error)
    cause: BaseException | None = error
    while cause is not None:
        words += "\n" + str(cause)
        cause = cause.__cause__
    match = re.search(r"No (?:ONNX function|decompositions?)[^<\n]*<?(?:OpOverload\(op=)?'?([\w:.]+)'?", words)
    operator = match.group(1) if match else ""
    if not operator:
        match = re.search(r"target=torch\.ops\.([\w.]+)", words)
        operator = match.group(1) if match else ""
    remedies = "; ".join(f"{number}. {text}" for number, text in enumerate(REMEDIES, 1))
    if operator:
        return ExportError(
            f"the operator {operator} has no ONNX translation{_code_place(words)}",
            expected="operators that the ONNX exporter knows",
            do=remedies,
        )
    first = next((line.strip() for line in words.splitlines() if line.strip()), type(error).__name__)
    return ExportError(f"the ONNX exporter refuses the model: {first[:300]}{_code_place(words)}", do=remedies)


def _name_axes(proto: onnx.ModelProto, inputs: dict[str, InputSpec]) -> None:
    """Give symbolic axes the user's names: the exporter calls them s77."""
    names: dict[str, str] = {}
    for value, spec in zip(proto.graph.input, inputs.values(), strict=False):
        for axis, declared in zip(value.type.tensor_type.shape.dim, spec.shape, strict=False):
            if axis.dim_param and isinstance(declared, str):
                names[axis.dim_param] = declared
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


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
