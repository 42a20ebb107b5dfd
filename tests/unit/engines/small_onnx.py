"""Small ONNX files for the onnxruntime engine's tests, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SIZE = 32


def convolutions(
    path: Path,
    *,
    depth: int = 4,
    width: int = 16,
    size: int = SIZE,
    batch: str | int = "batch",
    half: bool = False,
    classes: int = 10,
) -> Path:
    """Convolutions with ReLU named conv0, conv1 …, then a pooled product named fc: images → logits."""
    random = np.random.default_rng(0)
    kind, number = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    nodes, weights, current, channels = [], [], "images", 3
    for layer in range(depth):
        weight = random.standard_normal((width, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights += [numpy_helper.from_array(weight.astype(kind), f"w{layer}")]
        nodes += [
            helper.make_node("Conv", [current, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], f"relu{layer}"),
        ]
        current, channels = f"r{layer}", width
    weights.append(numpy_helper.from_array((random.standard_normal((width, classes)) * 0.1).astype(kind), "fw"))
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "fw"], ["logits"], "fc"),
    ]
    images = helper.make_tensor_value_info("images", number, [batch, 3, size, size])
    logits = helper.make_tensor_value_info("logits", number, [batch, classes])
    return save(path, helper.make_graph(nodes, "convolutions", [images], [logits], weights))


def nonzero(path: Path) -> Path:
    """An output whose size depends on the data: values → places."""
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, ["rows"])
    places = helper.make_tensor_value_info("places", TensorProto.INT64, [1, "found"])
    node = helper.make_node("NonZero", ["values"], ["places"], "nonzero")
    return save(path, helper.make_graph([node], "nonzero", [values], [places]))


def reshaped(path: Path) -> Path:
    """A convolution whose result is flattened to a shape that the graph computes from its input: images → flat."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    constants = {"zero": np.array([0], np.int64), "rest": np.array([-1], np.int64)}
    weights = [numpy_helper.from_array(weight, "w")]
    weights += [numpy_helper.from_array(array, name) for name, array in constants.items()]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], "head.conv", pads=[1] * 4),
        helper.make_node("Shape", ["c"], ["s"], "head.shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], "head.gather"),
        helper.make_node("Concat", ["n", "rest"], ["to"], "head.concat", axis=0),
        helper.make_node("Reshape", ["c", "to"], ["flat"], "head.reshape"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    flat = helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 4 * SIZE * SIZE])
    return save(path, helper.make_graph(nodes, "reshaped", [images], [flat], weights))


def save(path: Path, graph: onnx.GraphProto) -> Path:
    """A checked model at opset 18."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def images(rows: int, seed: int = 0, dtype: type = np.float32, size: int = SIZE) -> dict[str, np.ndarray]:
    """Feeds for :func:`convolutions`."""
    return {"images": np.random.default_rng(seed).standard_normal((rows, 3, size, size)).astype(dtype)}


def reference(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a graph on onnxruntime's CPU provider."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def quantized(source: Path, path: Path, *, keep: tuple[str, ...] = ()) -> Path:
    """A Q/DQ graph in onnxruntime's style: uint8 activations, per-channel int8 weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter([images(4, seed) for seed in range(2)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    quantize_static(
        source,
        path,
        Frames(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(keep),
    )
    return path
