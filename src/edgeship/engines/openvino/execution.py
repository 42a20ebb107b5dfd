"""What OpenVINO really runs: its execution graph (the runtime model), with the time of each kernel."""

from __future__ import annotations

from typing import Any

from edgeship.engines.ran import Ran

KINDS = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "MatMul",
    "MatMul": "MatMul",
    "ScaledDotProductAttention": "Attention",
    "RNNSeq": "LSTM",
    "RNNCell": "LSTM",
    "FakeQuantize": "QuantizeLinear",
    "Reorder": "ReorderOutput",
    "Convert": "Cast",
}
"""OpenVINO's layer types → the ONNX operators that the audit counts by."""
_IDLE = ("Input", "Output", "Const", "Parameter", "Result", "Constant")
_TYPES = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8", "i16": "int16",
    "u16": "int16", "i32": "int32", "i64": "int64",
}  # fmt: skip


def ran(network: Any) -> tuple[Ran, ...]:
    """The kernels of a compiled network in the order they run, after at least one inference with counters.

    A shape that is still open (a network for every size) is given as ().
    """
    ordered = []
    for operation in network.get_runtime_model().get_ordered_ops():
        told = operation.get_rt_info()
        layer = str(told["layerType"].astype(str)) if "layerType" in told else operation.get_type_name()
        if layer not in _IDLE:
            ordered.append((_number(_text(told, "execOrder")), _ran(operation, layer, told)))
    return tuple(item for _, item in sorted(ordered, key=lambda pair: pair[0]))


def _ran(operation: Any, layer: str, told: Any) -> Ran:
    precision = _type(_text(told, "runtimePrecision"))
    outputs = [_type(part) for part in _text(told, "outputPrecisions").split(",") if part]
    originals = [name for name in _text(told, "originalLayersNames").split(",") if name]
    inputs = [_shape(port) for port in operation.inputs()]
    operator = KINDS.get(layer, layer)
    weighted = operator in ("Conv", "ConvTranspose") or layer == "FullyConnected"
    return Ran(
        name=originals[0] if originals else operation.get_friendly_name(),
        operator=operator,
        provider="",
        precision=precision,
        touches=frozenset((precision, *outputs)),
        output=outputs[0] if outputs else "",
        microseconds=_number(_text(told, "execTimeMcs")),
        taken=inputs[0] if inputs else (),
        given=_shape(operation.outputs()[0]) if operation.outputs() else (),
        weights=_weights(inputs[1], len(inputs[0]), operator) if weighted and len(inputs) > 1 else (),
        fused=tuple(originals[1:]),  # a convolution with a bias comes first under a name of OpenVINO's own
    )


def _weights(shape: tuple[int, ...], rank: int, operator: str) -> tuple[int, ...]:
    """The shape of weights as ONNX orders them: OpenVINO's of a grouped convolution begin with the groups."""
    if len(shape) != rank + 1:
        return shape
    groups, first, second, *kernel = shape
    return (groups * first, second, *kernel) if operator in ("Conv", "ConvTranspose") else shape


def _shape(port: Any) -> tuple[int, ...]:
    found = port.get_partial_shape()
    return tuple(found.to_shape()) if found.is_static else ()


def _type(name: str) -> str:
    return _TYPES.get(name, name)


def _text(told: Any, key: str) -> str:
    return str(told[key].astype(str)) if key in told else ""


def _number(text: str) -> float:
    """A number of the execution graph; 0 for what was not executed."""
    try:
        return float(text)
    except ValueError:
        return 0.0
