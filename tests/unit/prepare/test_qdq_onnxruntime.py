"""Kinds of graphs that quantizers get wrong: the right numbers, in exact arithmetic, and the reasons for float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_support import graph, node
from onnx import helper

from edgeship.engines.ort.arithmetic import arithmetic_of
from edgeship.errors import PrecisionError
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.compare import Snr
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.qdq_onnxruntime import OrtForm, WeightGrids, ort_graph
from edgeship.prepare.quantize import QuantizeOptions, quantize
from edgeship.prepare.running import Running
from edgeship.results import Quantized

IMAGE = ["batch", 3, 16, 16]
RNG = np.random.default_rng(3)


def weight(*shape: int, scale: float = 0.3) -> Any:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * scale).astype(np.float32)


def noise(count: int = 8) -> list[tuple[list[str], dict[str, Any]]]:
    values = np.random.default_rng(5).standard_normal((count, 3, 16, 16)).astype(np.float32)
    return [([str(row)], {"x": values[row : row + 1]}) for row in range(count)]


def run(
    model: onnx.ModelProto, folder: Path, options: QuantizeOptions | None = None
) -> tuple[Quantized, onnx.ModelProto]:
    onnx.save(model, folder / "m.onnx")
    calibrate(folder / "m.onnx", Batches(noise()), folder / "c.cache", CalibrateOptions(method="minmax"))
    known = calibration_cache.load(folder / "c.cache", calibration_cache.Expected())
    result = quantize(folder / "m.onnx", known, folder / "q.onnx", noise(), options or QuantizeOptions())
    return result, onnx.load(folder / "q.onnx")


def test_graphs_that_share_their_rounded_weights_are_what_they_are_alone(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "y")]
    reference = infer(graph(nodes, {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1)}, IMAGE, ["y"]))
    scales = [dict.fromkeys(("x", "a", "b", "y"), size) for size in (0.01, 0.02)]
    caches = [calibration_cache.CalibrationCache(tmp_path, each, {}, "minmax") for each in scales]
    grids = WeightGrids()
    together = [ort_graph(reference, cache, {}, grids=grids).SerializeToString() for cache in caches]
    assert together == [ort_graph(reference, cache, {}).SerializeToString() for cache in caches]
    assert together[0] != together[1]
    narrow = ort_graph(reference, caches[0], {}, OrtForm(reduced_range=True), grids)
    assert (
        narrow.SerializeToString()
        == ort_graph(reference, caches[0], {}, OrtForm(reduced_range=True)).SerializeToString()
    )


POOLED = [node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f")]


@pytest.mark.parametrize("bias", [(8,), (1, 8), (1,), (), None], ids=str)
@pytest.mark.parametrize("settings", [{}, {"beta": 0.5}, {"beta": 0.0}, {"alpha": 2.0, "beta": 3.0}], ids=str)
def test_gemm_keeps_alpha_beta_and_every_shape_of_bias(
    bias: tuple[int, ...] | None, settings: dict[str, float], tmp_path: Path
) -> None:
    weights = {"w": weight(3, 8)} | ({"b": np.float32(weight(*bias, scale=2.0))} if bias is not None else {})
    gemm = node("Gemm", "f w b" if bias is not None else "f w", "y", **settings)
    result, proto = run(graph([*POOLED, gemm], weights, IMAGE, ["y"]), tmp_path)
    assert result.output_snr_db["y"] > 30
    assert not result.in_float
    quantized = next(item for item in proto.graph.node if item.op_type == "Gemm")
    assert all(name not in weights for name in quantized.input[1:])


def test_gemm_with_a_computed_scaled_bias_stays_in_float(tmp_path: Path) -> None:
    nodes = [*POOLED, node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "h"), node("Flatten", "h", "b")]
    nodes.append(node("Gemm", "f v b", "y", beta=0.5))
    result, _ = run(graph(nodes, {"w": weight(8, 3, 1, 1), "v": weight(3, 8)}, IMAGE, ["y"]), tmp_path)
    assert result.in_float == {"n_y": "its alpha or beta scales a computed operand"}
    assert result.output_snr_db["y"] > 30


def test_a_tensor_that_is_an_output_and_feeds_a_relu_keeps_its_negative_values(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "y")]
    model = graph(nodes, {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1)}, IMAGE, ["a", "y"])
    result, _ = run(model, tmp_path)
    assert min(result.output_snr_db.values()) > 30


def test_layers_that_share_a_bias_each_have_it_in_their_own_scale(tmp_path: Path) -> None:
    weights = {"w": weight(8, 3, 1, 1, scale=3.0), "v": weight(8, 8, 1, 1, scale=0.01), "b": weight(8, scale=1.0)}
    result, _ = run(graph([node("Conv", "x w b", "a"), node("Conv", "a v b", "y")], weights, IMAGE, ["y"]), tmp_path)
    assert result.output_snr_db["y"] > 35


def test_a_bias_beyond_int32_widens_the_weights_scale(tmp_path: Path) -> None:
    weights = {"w": weight(8, 3, 1, 1, scale=1e-9), "b": np.full(8, 50.0, np.float32)}
    result, proto = run(graph([node("Conv", "x w b", "y")], weights, IMAGE, ["y"]), tmp_path)
    assert result.output_snr_db["y"] > 40
    bias = next(item for item in proto.graph.initializer if item.data_type == onnx.TensorProto.INT32)
    assert np.abs(onnx.numpy_helper.to_array(bias)).max() <= 2**30


def test_transposed_convolution_in_groups_stays_in_float_and_is_said(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("ConvTranspose", "a u b", "y", group=4, strides=[2, 2])]
    weights = {"w": weight(8, 3, 1, 1), "u": weight(8, 4, 2, 2), "b": weight(16)}
    result, _ = run(graph(nodes, weights, IMAGE, ["y"]), tmp_path)
    assert result.in_float == {"n_y": "onnxruntime has no integer kernel for ConvTranspose"}
    assert result.products == 2
    assert result.output_snr_db["y"] > 35


def test_an_operator_of_another_domain_is_typed_by_onnxruntime(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Gelu", "a", "b", domain="com.microsoft"), node("Conv", "b v c", "y")]
    model = graph(nodes, {"w": weight(8, 3, 1, 1), "v": weight(4, 8, 1, 1), "c": weight(4)}, IMAGE, ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    result, _ = run(model, tmp_path)
    assert result.output_snr_db["y"] > 30
    assert result.quantized_nodes == 3  # both convolutions, and what reads the last one's rounded result or Gelu


def test_special_outputs_and_unnamed_axes(tmp_path: Path) -> None:
    """A constant, the input itself, float64 and an axis without a name."""
    nodes = [node("Conv", "x w", "a"), node("Cast", "a", "d", to=11), node("Constant", "", "k", value_float=3.0)]
    model = graph(nodes, {"w": weight(8, 3, 1, 1), "anchors": weight(5, 4)}, [None, 3, 16, 16], ["a"])
    image = ["batch", 3, 16, 16]
    for name, kind, shape in (("anchors", 1, [5, 4]), ("x", 1, image), ("d", 11, ["batch", 8, 16, 16]), ("k", 1, [])):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    result, proto = run(model, tmp_path)
    assert [value.name for value in proto.graph.output] == ["a", "anchors", "x", "d", "k"]
    assert result.output_snr_db["x"] == result.output_snr_db["anchors"] == result.output_snr_db["k"] == 200
    assert min(result.output_snr_db.values()) > 35


def test_integer_products_without_a_rounded_result(tmp_path: Path) -> None:
    """The last Gemm gives float32: nothing is rounded where no 8-bit operator reads it."""
    nodes = [*POOLED, node("Gemm", "f w", "h"), node("Softmax", "h", "y")]
    result, proto = run(graph(nodes, {"w": weight(3, 8)}, IMAGE, ["y"]), tmp_path)
    rounded = {item.input[0] for item in proto.graph.node if item.op_type == "QuantizeLinear"}
    assert "h_QuantizeLinear_Input" not in rounded
    assert result.output_snr_db["y"] > 40


def test_reduced_range_keeps_weights_within_seven_bits_and_is_marked(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("GlobalAveragePool", "r", "g")]
    nodes += [node("Flatten", "g", "f"), node("Gemm", "f v", "m"), node("MatMul", "m u", "y")]
    weights = {"w": weight(8, 3, 3, 3), "b": weight(8), "v": weight(8, 8), "u": weight(8, 4)}
    model = graph(nodes, weights, IMAGE, ["y"])
    wide, proto = run(model, tmp_path)
    assert not wide.reduced_range and arithmetic_of(str(tmp_path / "q.onnx")) == "exact"
    narrow, reduced = run(model, tmp_path, QuantizeOptions(reduced_range=True))
    assert narrow.reduced_range and arithmetic_of(str(tmp_path / "q.onnx")) == "reduced-range"
    largest = [
        max(
            int(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max())
            for tensor in made.graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8
        )
        for made in (proto, reduced)
    ]
    assert largest == [127, 64]
    assert narrow.quantized_nodes == wide.quantized_nodes
    assert 25 < narrow.output_snr_db["y"] < wide.output_snr_db["y"]


@pytest.mark.parametrize(("style", "precision"), [("tensorrt", "int8-fp32"), ("onnxruntime", "fp16")])
def test_reduced_range_is_onnxruntimes_int8_alone(style: Any, precision: Any, tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="reduced range was asked for"):
        quantize(tmp_path, None, tmp_path, noise(), QuantizeOptions(style, precision, reduced_range=True))


def joined(moved: bool) -> onnx.ModelProto:
    """A detector's head: boxes in pixels and scores below one in one output."""
    nodes = [
        node("Conv", "x w", "near"), node("Relu", "near", "a"), node("Conv", "a u", "box"),
        node("Mul", "box pixels", "boxes"), node("Conv", "a v", "logits"), node("Sigmoid", "logits", "scores"),
        node("Concat", "boxes scores", "all" if moved else "y", axis=1),
    ]  # fmt: skip
    if moved:
        nodes.append(node("Transpose", "all", "y", perm=[0, 2, 3, 1]))
    weights = {"w": weight(8, 3, 1, 1), "u": weight(4, 8, 1, 1), "v": weight(5, 8, 1, 1), "pixels": np.float32([300.0])}
    return graph(nodes, weights, IMAGE, ["y"])


@pytest.mark.parametrize("moved", [False, True], ids=["as it is", "moved"])
def test_scores_that_are_joined_with_pixels_for_the_output_keep_their_values(moved: bool, tmp_path: Path) -> None:
    model = joined(moved)
    _, proto = run(model, tmp_path)
    feeds = noise()[0][1]
    wanted, found = Running(model).run(["y"], feeds)[0], Running(proto).run(["y"], feeds)[0]
    wanted, found = (array if not moved else array.transpose(0, 3, 1, 2) for array in (wanted, found))
    noise_db = Snr()
    noise_db.add(wanted[:, 4:], found[:, 4:])
    assert np.abs(wanted[:, :4]).max() > 300.0 * wanted[:, 4:].max()
    assert noise_db.db > 30


def test_values_that_are_joined_for_a_convolution_are_joined_in_integers(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Conv", "x u", "b"), node("Concat", "a b", "c", axis=1)]
    nodes.append(node("Conv", "c v", "y"))
    weights = {"w": weight(8, 3, 1, 1), "u": weight(4, 3, 1, 1), "v": weight(4, 12, 1, 1)}
    _, proto = run(graph(nodes, weights, IMAGE, ["y"]), tmp_path)
    origin = {name: item for item in proto.graph.node for name in item.output}
    join = next(item for item in proto.graph.node if item.op_type == "Concat")
    assert {origin[name].op_type for name in join.input} == {"DequantizeLinear"}
