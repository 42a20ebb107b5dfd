"""What TensorRT's own parser will say of a graph, and what costs later, before anything is built."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.config import EngineName
from edgeship.engines.trt import flavour as trt
from edgeship.engines.trt import network
from edgeship.errors import BuildError, DeviceError, MissingExtra, ModelError
from edgeship.prepare import graph
from edgeship.results import Preflight, Problem

if TYPE_CHECKING:
    import onnx

REMEDIES = (
    "rewrite the layer with operators that TensorRT supports",
    "move the operator into pre- or postprocessing, outside the graph",
    "write a TensorRT plugin (last resort: real work, on every target)",
)
"""For a node that the parser rejects, in the order to try."""
FLAVOURS: tuple[EngineName, ...] = ("tensorrt", "tensorrt-rtx")
TOP_K = 3840
"""The largest k of TensorRT's TopK."""
CUT = (
    "cut it off the graph: export what goes into it as the output, and let evaluation.decoder do the rest",
    *REMEDIES[1:],
)
"""For operators that post-process."""
NO_PARSER = "no TensorRT of any kind works here; pip install 'edgeship[rtx]' brings one that needs no GPU"
STANDARD_DOMAINS = ("", "ai.onnx")
SPATIAL_COST = (
    "a range of heights or widths makes TensorRT build for all of them, which is slower and can pick worse kernels"
)
AWKWARD = {
    "int64": "64-bit integers are slow on a GPU and need TensorRT 10 or later",
    "uint64": "TensorRT has no 64-bit unsigned type",
    "uint32": "TensorRT has no 32-bit unsigned type",
    "uint16": "TensorRT has no 16-bit unsigned type",
    "float64": "TensorRT has no double precision",
    "uint8": "TensorRT takes uint8 at the network's edge only: a Cast must follow the input directly",
}


def preflight(
    model: Path,
    *,
    engine: EngineName | None = None,
    prefer: EngineName | None = None,
    plugins: tuple[Path, ...] = (),
) -> Preflight:
    """Check an ONNX file against TensorRT's parser and against what costs at build time.

    Args:
        model: The ONNX file.
        engine: The engine whose parser is asked; None: the first that works here. The two flavours share one parser.
        prefer: Without ``engine``: whose parser to ask first.
        plugins: Plugin libraries to load first.

    Raises:
        ModelError: Absent or not ONNX.
        MissingExtra: ``engine`` is named and not installed, or onnx is not.
        DeviceError, BuildError: ``engine`` is named and does not work here.
        UserInputError: A plugin library does not load.
    """
    proto = graph.load_onnx(model)
    problems = [*_inputs(proto), *_frozen(proto)]
    named = engine if engine in FLAVOURS else None
    for name in [named] if named else sorted(FLAVOURS, key=lambda flavour: flavour != prefer):
        try:
            flavour = trt.load(name)
            with trt.quiet():
                rejected = network.supported(flavour, model, trt.Log(), plugins)
        except (MissingExtra, DeviceError, BuildError):  # a TensorRT without a GPU has no builder
            if named:
                raise
            continue
        problems = [
            *(_rejected(proto, item) for item in rejected),
            *_unbuildable(proto, name, certain=name == (engine or prefer)),
            *problems,
        ]
        return Preflight(parser=f"the ONNX parser of {flavour.title}", problems=tuple(problems))
    note = f"TensorRT's own parser was not asked: {NO_PARSER}"
    return Preflight(parser=None, problems=(*problems, *_custom(proto), Problem(level="note", reason=note)))


def require(result: Preflight) -> None:
    """Stop when the parser rejected a node.

    Raises:
        ModelError: Names every node with its reason, its place and the remedies.
    """
    if not result.errors:
        return
    lines = [f"{result.parser}, and what is known of its builder, reject {graph.count(len(result.errors), 'node')}:"]
    lines += [f"  - {describe(problem)}" for problem in result.errors]
    raise ModelError("\n".join(lines), do="; or ".join(result.errors[0].remedies))


def describe(problem: Problem) -> str:
    """One problem on one line."""
    what = f"{problem.operator} {problem.node!r}: " if problem.operator else ""
    where = f" (from {problem.place})" if problem.place else ""
    return f"{what}{problem.reason}{where}"


def _rejected(proto: onnx.ModelProto, item: network.Objection) -> Problem:
    nodes = proto.graph.node
    node = nodes[item.index] if 0 <= item.index < len(nodes) else None
    if node is None or (item.operator and node.op_type != item.operator):
        node = next((other for other in nodes if other.name == item.node and other.op_type == item.operator), None)
    remedies: tuple[str, ...] = REMEDIES
    if "lugin not found" in item.reason or (node is not None and node.domain not in STANDARD_DOMAINS):
        remedies = ('if a plugin for it exists, load it: plugins = ["libplugin.so"]', *REMEDIES)
    name = item.node or (node.output[0] if node is not None and node.output else "")
    return Problem(
        level="error",
        node=name,
        operator=item.operator,
        reason=item.reason,
        place=graph.place(node) if node is not None else "",
        remedies=remedies,
    )


def _inputs(proto: onnx.ModelProto) -> list[Problem]:
    found = []
    for tensor in graph.inputs_of(proto):
        spatial = [str(size) for axis, size in enumerate(tensor.shape) if axis > 0 and isinstance(size, str)]
        if spatial:
            found.append(
                Problem(
                    level="warning",
                    node=tensor.name,
                    reason=f"input {tensor.name!r}: {', '.join(spatial)} is dynamic beyond the batch; {SPATIAL_COST}",
                    remedies=(
                        "fix height and width in the export: the camera's resolution is fixed",
                        f"else give the range in [target.shapes.{tensor.name}]",
                    ),
                )
            )
        if tensor.dtype in AWKWARD:
            found.append(
                Problem(
                    level="warning",
                    node=tensor.name,
                    reason=f"input {tensor.name!r} is {tensor.dtype}: {AWKWARD[tensor.dtype]}",
                    remedies=("export the model with a float32 or int32 input",),
                )
            )
    return found


def _frozen(proto: onnx.ModelProto) -> list[Problem]:
    """Axes that the export fixed: outputs of fixed batch behind a dynamic input, and inputs fixed to one batch."""
    inputs, outputs = graph.inputs_of(proto), graph.outputs_of(proto)
    dynamic = [tensor for tensor in inputs if tensor.shape and isinstance(tensor.shape[0], str)]
    found = []
    if dynamic:
        for tensor in outputs:
            if tensor.shape and not isinstance(tensor.shape[0], str) and tensor.shape[0] == 1:
                found.append(
                    Problem(
                        level="warning",
                        node=tensor.name,
                        reason=f"output {tensor.name!r} has a first axis of 1 behind the dynamic input "
                        f"{dynamic[0].name!r}: the export may have frozen the batch",
                        remedies=("export with an example batch of 2 or more",),
                    )
                )
    fixed = [tensor for tensor in inputs if len(tensor.shape) == 4 and not isinstance(tensor.shape[0], str)]
    for tensor in fixed:
        found.append(
            Problem(
                level="note",
                node=tensor.name,
                reason=f"input {tensor.name!r} is fixed to batch {tensor.shape[0]}: the engine serves no other",
                remedies=("name the batch axis in the export if several cameras are to share one call",),
            )
        )
    return found


def _unbuildable(proto: onnx.ModelProto, engine: EngineName, *, certain: bool) -> list[Problem]:
    """What the parser accepts and no kernel exists for. ``certain``: this engine is the one that will build."""
    from onnx import numpy_helper

    constants = graph.constants_of(proto)
    found = []
    for node in proto.graph.node:
        reason = ""
        if node.op_type == "NonMaxSuppression" and engine == "tensorrt-rtx":
            reason = "TensorRT-RTX parses NonMaxSuppression and has no kernel to build it with"
        elif node.op_type == "TopK" and node.input[1] in constants:
            k = int(numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])
            reason = f"a TopK of {k} is parsed; TensorRT builds none above {TOP_K}" if k > TOP_K else ""
        if reason:
            found.append(
                Problem(
                    level="error" if certain else "warning",
                    node=node.name or node.output[0],
                    operator=node.op_type,
                    reason=reason,
                    place=graph.place(node),
                    remedies=CUT,
                )
            )
    return found


def _custom(proto: onnx.ModelProto) -> list[Problem]:
    """Operators outside the standard, which need a plugin."""
    kinds = Counter((node.domain, node.op_type) for node in proto.graph.node if node.domain not in STANDARD_DOMAINS)
    first = {(node.domain, node.op_type): node for node in reversed(proto.graph.node)}
    return [
        Problem(
            level="warning",
            node=first[key].name,
            operator=key[1],
            reason=f"{key[1]} of domain {key[0]!r} is not a standard operator: "
            f"it needs a plugin ({graph.count(count, 'node')})",
            place=graph.place(first[key]),
            remedies=REMEDIES,
        )
        for key, count in kinds.items()
    ]
