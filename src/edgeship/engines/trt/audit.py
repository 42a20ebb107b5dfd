"""Asked-for precision against achieved precision: from the engine inspector, or from the parsed, typed network."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeship.config import Precision
from edgeship.engines.products import (
    ACCEPTED,
    Product,
    convolution_macs,
    matches,
    product_macs,
    shares,
    transposed_macs,
)
from edgeship.engines.trt.flavour import dtype_name
from edgeship.errors import EngineError
from edgeship.results import Audit, AuditedLayer, EngineLayer

if TYPE_CHECKING:
    import tensorrt as trt

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8"}
HEAVY = {"CONVOLUTION": "Conv", "DECONVOLUTION": "ConvTranspose", "MATRIX_MULTIPLY": "MatMul", "EINSUM": "Einsum"}
"""TensorRT's layer types that are counted → their ONNX operator."""
ALIASES = {"MatMul": ("MatMul", "Gemm")}
SEE_THROUGH = frozenset({"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE"})
"""Layers between a dequantize and its user that move values and leave them as they are."""


@dataclass(frozen=True)
class Layer:
    """One layer as the audit sees it. ``operator`` is set for convolutions and matrix products only.

    ``fused`` names every ONNX node in the layer; ``name`` is the one that stands for it.
    """

    name: str
    kind: str
    precision: str
    operator: str = ""
    reformat: bool = False
    fused: tuple[str, ...] = ()
    macs: float | None = None
    """Multiply-accumulates of a convolution or matrix product for one batch, where the shapes are told."""
    label: str = ""
    """The engine's own name of it; empty: ``name``."""
    output: str = ""
    """The type of its first output; empty where the report does not tell it."""
    quantize: bool = False
    """Whether it only quantizes or dequantizes."""
    detail: str = ""
    """Of a convolution: kernel, output maps, stride, groups."""


def read_network(network: trt.INetworkDefinition) -> list[Layer]:
    """Every layer of a typed network with the precision it computes in."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {
        layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)
    }  # fmt: skip
    found = []
    for layer in layers:
        kind = layer.type.name
        operator = HEAVY.get(kind, "")
        precision = _typed(layer, producers) if operator else _output_type(layer)
        macs = _network_macs(layer) if operator else None
        found.append(Layer(onnx_name(layer.metadata, layer.name), kind, precision, operator, macs=macs))
    return found


def _network_macs(layer: trt.ILayer) -> float | None:
    """Multiply-accumulates of a layer of the network for one row: a dynamic axis counts as one."""
    tensors = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
    shapes = [[abs(int(axis)) for axis in tensor.shape] for tensor in tensors if tensor is not None]
    output = [abs(int(axis)) for axis in layer.get_output(0).shape]
    kind = layer.type.name
    if kind == "MATRIX_MULTIPLY" and shapes:
        return product_macs(shapes[0], output)
    if kind in ("CONVOLUTION", "DECONVOLUTION") and len(shapes) == 2:
        return convolution_macs(output, shapes[1]) if kind == "CONVOLUTION" else transposed_macs(shapes[0], shapes[1])
    return None


def _typed(layer: trt.ILayer, producers: dict[str, trt.ILayer]) -> str:
    """int8 or fp8 when every operand comes from a dequantize of that type, else the operand's own type."""
    sources = [_dequantized(layer.get_input(index), producers) for index in range(min(layer.num_inputs, 2))]
    operands = [source for source in sources if source is not None]
    if operands and len(set(operands)) == 1 and len(operands) == len(sources):
        return operands[0]
    tensor = layer.get_input(0)
    return _short(dtype_name(tensor.dtype)) if tensor is not None else "unknown"


def _dequantized(tensor: trt.ITensor | None, producers: dict[str, trt.ILayer]) -> str | None:
    """The quantized type behind a tensor, or None when it is not the result of a dequantize."""
    layer = producers.get(tensor.name) if tensor is not None else None
    while layer is not None and layer.type.name in SEE_THROUGH:
        inner = layer.get_input(0)
        layer = producers.get(inner.name) if inner is not None else None
    if layer is None or layer.type.name != "DEQUANTIZE":
        return None
    return _short(dtype_name(layer.get_input(0).dtype))


def _output_type(layer: trt.ILayer) -> str:
    return _short(dtype_name(layer.get_output(0).dtype)) if layer.num_outputs else "none"


def _short(name: str) -> str:
    return SHORT.get(name, name)


def onnx_name(metadata: str, name: str) -> str:
    """The ONNX node that a layer came from, as its metadata says; else the layer's own name."""
    found = re.search(r"\[ONNX Layer: ([^\]]*)\]", metadata or "")
    return found[1] if found else name


def onnx_names(metadata: str) -> tuple[str, ...]:
    """Every ONNX node in a fused layer, in the order of its metadata."""
    return tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", metadata or ""))


def read_inspector(
    engine: trt.ICudaEngine, context: trt.IExecutionContext | None, trt: Any, nodes: Mapping[str, str]
) -> list[Layer]:
    """Every layer of an open engine, from its inspector.

    Args:
        engine: The open engine, built with detailed profiling verbosity.
        context: A context with its input shapes set: without one, layers of dynamic shape do not tell their types.
        trt: The vendor module.
        nodes: Operator by name of the ONNX nodes.

    Raises:
        EngineError: The engine was built without detailed profiling verbosity, or its report is not JSON.
    """
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return parse_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON), nodes)


def parse_inspector(text: str, nodes: Mapping[str, str]) -> list[Layer]:
    """Read the inspector's JSON. ``nodes``: operator by name of the ONNX nodes. Raises as :func:`read_inspector`."""
    try:
        report = json.loads(text)
        raw = report["Layers"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise EngineError(
            f"the engine inspector's report cannot be read: {error}", expected="JSON with Layers"
        ) from error
    if raw and isinstance(raw[0], str):
        raise EngineError(
            "the engine tells only the names of its layers",
            expected="an engine built with detailed profiling verbosity",
            do="build it with edgeship build (or trtexec --profilingVerbosity=detailed)",
        )
    return [_inspected(item, nodes) for item in raw]


def _inspected(item: dict[str, Any], nodes: Mapping[str, str]) -> Layer:
    kind = str(item.get("ParameterType") or item.get("LayerType") or "unknown")
    layer_type = str(item.get("LayerType", ""))
    label = f"{kind} {layer_type} {item.get('TacticName', '')}".lower()
    operator = ""
    if re.search(r"deconv", label):
        operator = "ConvTranspose"
    elif re.search(r"conv(?!ert)|fprop", label):
        operator = "Conv"
    elif re.search(r"gemm|matrixmultiply|matrix_multiply|matmul|gemv|_mha|fmha", label):
        operator = "MatMul"
    reformat = kind == "Reformat" or layer_type == "Reformat"
    operator = "" if reformat else operator
    fused = onnx_names(str(item.get("Metadata", "")))
    kinds = ALIASES.get(operator, (operator,))
    name = next((name for name in fused if nodes.get(name) in kinds), next(iter(fused), str(item.get("Name", ""))))
    macs = _inspected_macs(item, operator) if operator else None
    label, outputs = str(item.get("Name", "")), item.get("Outputs") or [{}]
    output = type_in_text(str(outputs[0].get("Format/Datatype", ""))) if isinstance(outputs[0], dict) else ""
    quantize = reformat and str(item.get("Origin", "")) == "QDQ"
    told = (label, output, quantize, _detail(item) if operator else "")
    return Layer(name, layer_type or kind, _inspected_type(item), operator, reformat, fused, macs, *told)


def _detail(item: dict[str, Any]) -> str:
    """Kernel, output maps, stride and groups of a convolution, as far as the report tells them."""
    parts = []
    told = {**item, **{key.removeprefix("Conv"): value for key, value in item.items() if key.startswith("Conv")}}
    kernel, maps, stride, groups = (told.get(key) for key in ("Kernel", "OutMaps", "Stride", "Groups"))
    if isinstance(kernel, list) and kernel:
        parts.append("×".join(map(str, kernel)))
    if isinstance(maps, int):
        parts.append(f"{maps} maps")
    if isinstance(stride, list) and any(step != 1 for step in stride):
        parts.append(f"stride {'×'.join(map(str, dict.fromkeys(stride)))}")
    if isinstance(groups, int) and groups > 1:
        parts.append(f"{groups} groups")
    return ", ".join(parts)


def layers_of(layers: Iterable[Layer]) -> tuple[EngineLayer, ...]:
    """The layers of an engine as results tell them, without times."""
    return tuple(
        EngineLayer(
            name=layer.label or layer.name,
            kind=layer.operator or layer.kind,
            precision=layer.precision,
            output=layer.output,
            role=_role(layer),
            nodes=layer.fused or named_nodes(layer.label),
            detail=layer.detail,
        )
        for layer in layers
    )


def _role(layer: Layer) -> Literal["product", "quantize", "reformat", "other"]:
    if layer.operator:
        return "product"
    if layer.quantize:
        return "quantize"
    return "reformat" if layer.reformat or layer.kind == "NoOp" else "other"


def named_nodes(label: str) -> tuple[str, ...]:
    """The nodes that a fused layer's name joins: ``Conv_5 + Add_6 + Relu_7``. Empty for layers of the builder's own."""
    if not label or label.startswith(("Reformatting CopyNode", "copied_", "reshape_")):
        return ()
    return tuple(part.strip() for part in label.split(" + "))


def _inspected_macs(item: dict[str, Any], operator: str) -> float | None:
    """Multiply-accumulates from the shapes and the number of weights that the inspector tells."""
    taken, given = (_dimensions(item.get(side)) for side in ("Inputs", "Outputs"))
    weights = item.get("Weights")
    count = weights.get("Count") if isinstance(weights, dict) else None
    if not taken or not given:
        return None
    if isinstance(count, int) and count > 0 and operator == "Conv" and len(given) > 1:
        return convolution_macs(given, [given[1], count // given[1]]) if given[1] > 0 else None
    if isinstance(count, int) and count > 0 and operator == "ConvTranspose" and len(taken) > 1:
        return transposed_macs(taken, [taken[1], count // taken[1]]) if taken[1] > 0 else None
    return product_macs(taken, given) if operator == "MatMul" else None


def _dimensions(side: Any) -> list[int]:
    """The dimensions of the first tensor of a side; empty where they are not told."""
    first = side[0] if isinstance(side, list) and side else None
    found = first.get("Dimensions") if isinstance(first, dict) else None
    return list(found) if isinstance(found, list) and all(isinstance(axis, int) for axis in found) else []


def _inspected_type(item: dict[str, Any]) -> str:
    """The type a layer computes in: of its first input, of its weights, or as its tactic's name says."""
    inputs = item.get("Inputs") or [{}]
    weights = item.get("Weights")
    texts = [
        str(inputs[0].get("Format/Datatype", "")) if isinstance(inputs[0], dict) else "",
        str(weights.get("Type", "")) if isinstance(weights, dict) else "",
        str(item.get("TacticName", "")),
    ]
    return next((kind for kind in map(type_in_text, texts) if kind), "unknown")


def type_in_text(text: str) -> str:
    """The type that a format's or a tactic's name mentions; empty when it mentions none."""
    lowered = text.lower()
    marks = (
        ("int8", r"int8|i8i8|imma"), ("fp8", r"fp8|e4m3"), ("bf16", r"bf16|bfloat"),
        ("fp16", r"half|fp16|float16|f16f16|h884|h1688|h16816"), ("fp32", r"fp32|float|f32f32|tf32|sgemm|\bf32\b"),
    )  # fmt: skip
    return next((name for name, pattern in marks if re.search(pattern, lowered)), "")


def is_kept(layer: Layer, keep: Sequence[str]) -> bool:
    """Whether a pattern of the user's keeps a node of it in high precision: a name, a shell pattern or ``op:Kind``."""
    return matches(keep, (layer.name, *layer.fused), ALIASES.get(layer.operator, (layer.operator,)))


def summarize(
    layers: Sequence[Layer], asked: Precision, keep: Sequence[str], source: Literal["engine", "network"]
) -> Audit:
    """Count layers by kind and precision, and name the convolutions and matrix products that missed."""
    counts: dict[str, Counter[str]] = {}
    for layer in layers:
        counts.setdefault(layer.operator or layer.kind, Counter())[layer.precision] += 1
    heavy = [layer for layer in layers if layer.operator]
    kept = [layer for layer in heavy if is_kept(layer, keep)]
    judged = [layer for layer in heavy if layer not in kept]
    missed = [layer for layer in judged if layer.precision not in ACCEPTED[asked]]
    found = shares([Product(layer.precision, layer.macs, layer in kept) for layer in heavy], asked)
    notes = _notes(judged, missed, asked, source)
    overruled = [layer.name for layer in kept if layer.precision == "int8"]
    if overruled:
        notes += (f"kept on request, yet they run in INT8: {', '.join(overruled)}",)
    return Audit(
        source=source,
        asked=asked,
        layers={kind: dict(sorted(count.items())) for kind, count in sorted(counts.items())},
        achieved=1.0 if found.achieved is None and _only_float(layers, asked) else found.achieved,
        arithmetic=found.arithmetic,
        kept_share=found.kept,
        weighed_by=found.weighed_by,
        missed=tuple(
            AuditedLayer(name=layer.name, operator=layer.operator, precision=layer.precision) for layer in missed
        ),
        kept=tuple(dict.fromkeys(layer.name for layer in kept)),
        reformats=sum(layer.reformat for layer in layers) if source == "engine" else None,
        notes=notes,
        order=layers_of(layers) if source == "engine" else (),
    )


def _notes(judged: Sequence[Layer], missed: Sequence[Layer], asked: Precision, source: str) -> tuple[str, ...]:
    notes = []
    if not judged:
        notes.append("no convolution or matrix product outside the kept ones: nothing could be judged")
    if judged and len(missed) == len(judged):
        got = Counter(layer.precision for layer in missed).most_common(1)[0][0]
        notes.append(f"asked for {asked}, got {got} everywhere")
    if source == "network":
        notes.append("read from the parsed, strongly typed network: the builder may fuse layers, not change types")
    return tuple(notes)


def _only_float(layers: Sequence[Layer], asked: Precision) -> bool:
    """Whether fp32 was asked for and no layer of any kind computes in a lower precision."""
    return (
        asked == "fp32"
        and bool(layers)
        and not any(layer.precision in ("fp16", "bf16", "int8", "fp8") for layer in layers)
    )


def declared(layers: Sequence[Layer]) -> Precision:
    """What a typed network itself asks for: int8 or fp8 if any product is quantized, else the majority."""
    heavy = Counter(layer.precision for layer in layers if layer.operator)
    if heavy["int8"]:
        floats = heavy["fp16"] + sum(layer.precision == "fp16" for layer in layers)
        return "int8-fp16" if floats else "int8-fp32"
    if heavy["fp8"]:
        return "fp8"
    return "fp16" if heavy["fp16"] > heavy["fp32"] else "fp32"
