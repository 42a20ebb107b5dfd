"""Tiny ONNX networks, written to the wire format: a device has no ``onnx`` package. Their answers are known from numpy.

A convolution of 3 × 3 over eight channels, a ReLU, a global average, and a product to four values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeship.engines.onnx_file import field, number

Floats = NDArray[np.float32]
CHANNELS, MAPS, CLASSES, SIZE = 8, 16, 4, 16
FLOAT, UINT8, INT8, INT64, HALF, FP8 = 1, 2, 3, 7, 10, 17
_RANDOM = np.random.default_rng(0)
KERNEL: Floats = (_RANDOM.standard_normal((MAPS, CHANNELS, 3, 3)) * 0.15).astype(np.float32)
HEAD: Floats = (_RANDOM.standard_normal((MAPS, CLASSES)) * 0.5).astype(np.float32)
LEVEL, KEPT = np.float32(4 / 127), np.float32(12 / 255)
"""Steps of the quantized network's 8-bit input, and of the convolution's result."""
LARGEST_FP8 = 448
"""The largest value of E4M3."""


def frames(rows: int, seed: int = 1) -> Floats:
    """Inputs within the range of the quantized network: float32 [rows, 8, 16, 16]."""
    made = np.random.default_rng(seed).standard_normal((rows, CHANNELS, SIZE, SIZE))
    return np.clip(made, -3.9, 3.9).astype(np.float32)


def answers(images: Floats) -> NDArray[np.float64]:
    """What the network gives, in double precision: [rows, 4]."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    maps = np.zeros((len(images), MAPS, SIZE, SIZE))
    for y in range(3):
        for x in range(3):
            part = padded[:, :, y : y + SIZE, x : x + SIZE]
            maps += np.einsum("nchw,mc->nmhw", part, KERNEL[:, :, y, x].astype(np.float64))
    found: NDArray[np.float64] = np.maximum(maps, 0).mean(axis=(2, 3)) @ HEAD.astype(np.float64)
    return found


def write(path: Path, style: str = "") -> Path:
    """The network: ``images`` float32 [batch, 8, 16, 16] → ``scores`` [batch, 4].

    ``style``: with Q/DQ pairs as ``onnxruntime`` (uint8) or ``tensorrt`` (int8) takes them, or in ``fp8`` (E4M3);
    ``fp16``: computed in FP16 between two casts; empty: in FP32.
    """
    if style == "fp16":
        return _write_half(path)
    nodes: list[bytes] = []
    weights = [_tensor("head", HEAD, FLOAT)]
    image, kept = "images", "kept"
    if style == "fp8":
        nodes, image = _fp8(weights)
    elif style:
        unsigned = style == "onnxruntime"
        kind, whole_type = (UINT8, np.uint8) if unsigned else (INT8, np.int8)
        kept_step = KEPT if unsigned else KEPT * np.float32(255 / 127)
        steps = np.abs(KERNEL).max(axis=(1, 2, 3)) / 127
        whole = np.clip(np.rint(KERNEL / steps[:, None, None, None]), -127, 127).astype(np.int8)
        weights += [
            _tensor("kernel_q", whole, INT8),
            _tensor("kernel_s", steps.astype(np.float32), FLOAT),
            _tensor("kernel_z", np.zeros(MAPS, np.int8), INT8),
            _tensor("image_s", np.array(LEVEL), FLOAT),
            _tensor("image_z", np.array(128 if unsigned else 0, whole_type), kind),
            _tensor("kept_s", np.array(kept_step, np.float32), FLOAT),
            _tensor("kept_z", np.array(0, whole_type), kind),
        ]
        nodes += [
            _node("QuantizeLinear", ["images", "image_s", "image_z"], "image_q"),
            _node("DequantizeLinear", ["image_q", "image_s", "image_z"], "image_d"),
            _node("DequantizeLinear", ["kernel_q", "kernel_s", "kernel_z"], "kernel", axis=0),
        ]
        image, kept = "image_d", "kept_d"
    else:
        weights.append(_tensor("kernel", KERNEL, FLOAT))
    nodes += [_node("Conv", [image, "kernel"], "maps", pads=[1, 1, 1, 1]), _node("Relu", ["maps"], "kept")]
    if style and style != "fp8":
        nodes += [
            _node("QuantizeLinear", ["kept", "kept_s", "kept_z"], "kept_q"),
            _node("DequantizeLinear", ["kept_q", "kept_s", "kept_z"], "kept_d"),
        ]
    nodes += [
        _node("GlobalAveragePool", [kept], "mean"),
        _node("Flatten", ["mean"], "flat", axis=1),
        _node("MatMul", ["flat", "head"], "scores"),
    ]
    scores = _value("scores", ["batch", CLASSES])
    return _save(path, nodes, weights, scores, opset=19 if style == "fp8" else 18)


def _write_half(path: Path) -> Path:
    """The network with FP16 weights: engines compute in the types that a graph names."""
    weights = [_tensor(name, values.astype(np.float16), HALF) for name, values in (("kernel", KERNEL), ("head", HEAD))]
    nodes = [
        _node("Cast", ["images"], "image_h", to=HALF),
        _node("Conv", ["image_h", "kernel"], "maps", pads=[1, 1, 1, 1]),
        _node("Relu", ["maps"], "kept"),
        _node("GlobalAveragePool", ["kept"], "mean"),
        _node("Flatten", ["mean"], "flat", axis=1),
        _node("MatMul", ["flat", "head"], "scores_h"),
        _node("Cast", ["scores_h"], "scores", to=FLOAT),
    ]
    return _save(path, nodes, weights, _value("scores", ["batch", CLASSES]))


def write_unknown(path: Path) -> Path:
    """A network of one operator that no engine has: it must be refused."""
    node = _node("EdgeshipKnowsNoSuchOperator", ["images"], "scores")
    return _save(path, [node], [], _value("scores", ["batch", CHANNELS, SIZE, SIZE]))


def write_dependent(path: Path) -> Path:
    """Where the image is above zero: ``places`` int64 [4, n], of which n depends on the values."""
    nodes = [_node("Relu", ["images"], "above"), _node("NonZero", ["above"], "places")]
    return _save(path, nodes, [], _value("places", [4, "found"], INT64))


def _fp8(weights: list[bytes]) -> tuple[list[bytes], str]:
    """Q/DQ pairs in E4M3 around the convolution's input and kernel; the name of the input behind them."""
    nodes = []
    for name, given, largest in (("image", "images", 4.0), ("kernel", "kernel_f", float(np.abs(KERNEL).max()))):
        weights += [
            _tensor(f"{name}_s", np.array(largest / LARGEST_FP8, np.float32), FLOAT),
            _tensor(f"{name}_z", np.zeros((), np.uint8), FP8),
        ]
        nodes.append(_node("QuantizeLinear", [given, f"{name}_s", f"{name}_z"], f"{name}_q"))
        made = "kernel" if name == "kernel" else "image_d"
        nodes.append(_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], made))
    weights.append(_tensor("kernel_f", KERNEL, FLOAT))
    return nodes, "image_d"


def _save(path: Path, nodes: list[bytes], weights: list[bytes], output: bytes, opset: int = 18) -> Path:
    """A model of ``images`` float32 [batch, 8, 16, 16] with one output."""
    graph = b"".join(field(1, node) for node in nodes) + field(2, b"selftest")
    graph += b"".join(field(5, weight) for weight in weights)
    graph += field(11, _value("images", ["batch", CHANNELS, SIZE, SIZE])) + field(12, output)
    path.write_bytes(_whole(1, 9) + field(7, graph) + field(8, _whole(2, opset)))
    return path


def _whole(place: int, value: int) -> bytes:
    """A varint field."""
    return number(place << 3) + number(value)


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> bytes:
    made = b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode())
    made += field(3, f"n_{output}".encode()) + field(4, operator.encode())
    for name, value in attributes.items():
        content = field(1, name.encode())
        if isinstance(value, list):
            content += b"".join(_whole(8, item) for item in value) + _whole(20, 7)
        else:
            content += _whole(3, value) + _whole(20, 2)
        made += field(5, content)
    return made


def _tensor(name: str, values: NDArray[Any], kind: int) -> bytes:
    dims = b"".join(_whole(1, size) for size in values.shape)
    return dims + _whole(2, kind) + field(8, name.encode()) + field(9, np.ascontiguousarray(values).tobytes())


def _value(name: str, shape: list[str | int], kind: int = FLOAT) -> bytes:
    dims = b"".join(field(1, field(2, axis.encode()) if isinstance(axis, str) else _whole(1, axis)) for axis in shape)
    return field(1, name.encode()) + field(2, field(1, _whole(1, kind) + field(2, dims)))
