"""Quantized graphs: one operator at a time, one cache for every engine, and what is refused."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from calibration_support import patches, pictures, tiny
from onnx import numpy_helper

from edgeship import engines
from edgeship.config import Model, Target
from edgeship.engines import BuildRequest
from edgeship.errors import CacheError, DataError, PrecisionError, StageError, UserInputError
from edgeship.prepare import calibration_cache, compare, graph
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.export import export
from edgeship.prepare.fp16 import to_half
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.qdq_onnxruntime import ort_graph
from edgeship.prepare.quantize import QuantizeOptions, precision_named, quantize, style_named
from edgeship.prepare.quantized_tensors import find_tensors
from edgeship.prepare.running import Running
from edgeship.prepare.slim import slim
from processes import edgeship

RTX_89 = Target(engine="tensorrt-rtx", compute_capability=("8.9",))
KINDS = ("residual", "concat", "depthwise", "transposed", "gemm", "shared", "attention")


@pytest.fixture(scope="module")
def calibration(model: Path, tmp_path_factory: pytest.TempPathFactory) -> calibration_cache.Calibration:
    out = tmp_path_factory.mktemp("cache") / "calib.cache"
    result = calibrate(model, pictures(model, 128), out, CalibrateOptions(method="mse"))
    return calibration_cache.load(out, calibration_cache.Expected(graph_sha256=result.graph_sha256))


def calibrated(kind: str, folder: Path) -> tuple[Path, calibration_cache.CalibrationCache]:
    path = folder / f"{kind}.onnx"
    onnx.save(tiny(kind), path)
    result = calibrate(path, Batches(patches(kind)), folder / "calib.cache", CalibrateOptions(method="minmax"))
    return path, calibration_cache.load(
        folder / "calib.cache", calibration_cache.Expected(graph_sha256=result.graph_sha256)
    )


def scales(proto: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Quantized tensor → (scale, zero point) of every per-tensor QuantizeLinear on an activation."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants and constants[node.input[1]].size == 1:
            name = node.input[0].removesuffix("_cast_to_fp16").removesuffix("_QuantizeLinear_Input")
            found[name] = (float(constants[node.input[1]]), int(constants[node.input[2]]))
    return found


def fused_operators(path: Path) -> list[str]:
    """The operators that onnxruntime runs for a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path.with_name("optimized.onnx")).graph.node]


@pytest.mark.parametrize("kind", KINDS)
def test_one_operator_for_onnxruntime(kind: str, tmp_path: Path) -> None:
    path, known = calibrated(kind, tmp_path)
    result = quantize(path, known, tmp_path / "q.onnx", patches(kind), QuantizeOptions())
    proto = onnx.load(tmp_path / "q.onnx")
    assert min(result.output_snr_db.values()) > 25
    assert result.quantized_nodes >= 2
    assert {layer.node for layer in result.noise} <= {node.name for node in tiny(kind).graph.node}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    shared = find_tensors(infer(tiny(kind))).shared
    for name, (scale, zero) in scales(proto).items():
        low, high = known.bounds(shared.get(name, name)) or (0.0, 0.0)
        assert scale == pytest.approx((high - low) / 255, rel=1e-5), name
        assert zero == pytest.approx(-low / scale, abs=0.51)
    weights = [value for name, value in constants.items() if name.endswith("_quantized") and value.dtype == np.int8]
    biases = [value for name, value in constants.items() if name.endswith("_quantized") and value.dtype == np.int32]
    assert weights
    assert bool(biases) == any(tensor.name.startswith("b") for tensor in tiny(kind).graph.initializer)


@pytest.mark.parametrize("kind", ["residual", "concat", "depthwise", "gemm", "shared"])
def test_weights_are_symmetric_and_biases_have_the_products_scale(kind: str, tmp_path: Path) -> None:
    """int8 in ±127 with zero point 0; int32 with scale input × weight, also where layers share a bias."""
    path, known = calibrated(kind, tmp_path)
    quantize(path, known, tmp_path / "q.onnx", patches(kind), QuantizeOptions())
    proto = onnx.load(tmp_path / "q.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    made = {node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    weighted = [node for node in proto.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert len(weighted) >= 2
    for node in weighted:
        activation, weight, *bias = (made[name] for name in node.input)
        assert np.abs(constants[weight.input[0]].astype(int)).max() <= 127
        assert not constants[weight.input[2]].any()
        for item in bias:
            assert constants[item.input[0]].dtype == np.int32
            product = constants[activation.input[1]] * constants[weight.input[1]]
            np.testing.assert_allclose(constants[item.input[1]], product, rtol=1e-5)


def test_a_clip_of_a_trusted_cache_still_clips(tmp_path: Path) -> None:
    """ReLU6 is fused by the engine where the 8-bit range clamps as it does, also from a cache with magnitudes only."""
    path, known = calibrated("relu6", tmp_path)
    plain = tmp_path / "plain.cache"
    wider = {name: 2 * scale for name, scale in known.scales.items()}
    plain.write_text(calibration_cache.format_cache(wider))
    trusted = calibration_cache.load(plain, calibration_cache.Expected(), trust=True)
    result = quantize(path, trusted, tmp_path / "q.onnx", patches("relu6"), QuantizeOptions())
    proto = onnx.load(tmp_path / "q.onnx")
    assert "Clip" not in fused_operators(tmp_path / "q.onnx")
    assert scales(proto)["r"] == (pytest.approx(6 / 255, rel=1e-5), 0)
    assert min(result.output_snr_db.values()) > 25


@pytest.mark.parametrize("kind", ["residual", "concat", "depthwise", "shared"])
def test_weights_are_per_channel(kind: str, tmp_path: Path) -> None:
    """The tiny graphs' channels differ a hundredfold in size: each keeps its own 127 steps."""
    path, known = calibrated(kind, tmp_path)
    quantize(path, known, tmp_path / "many.onnx", patches(kind), QuantizeOptions())
    quantize(path, known, tmp_path / "one.onnx", patches(kind), QuantizeOptions(per_channel=False))
    errors = {}
    for name in ("many", "one"):
        proto = onnx.load(tmp_path / f"{name}.onnx")
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        weight = next(numpy_helper.to_array(t) for t in tiny(kind).graph.initializer if t.name == "w")
        steps = constants["w_scale"].reshape(-1, 1, 1, 1)
        back = constants["w_quantized"].astype(np.float32) * steps
        errors[name] = np.abs(back - weight).max(axis=(1, 2, 3)) / np.abs(weight).max(axis=(1, 2, 3))
    assert errors["many"].max() <= 0.5 / 127 * 1.01
    assert errors["one"].max() > 5 * errors["many"].max()


@pytest.mark.parametrize("kind", [*KINDS[:1], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_one_operator_for_tensorrt(kind: str, tmp_path: Path) -> None:
    path, known = calibrated(kind, tmp_path)
    result = quantize(
        path,
        known,
        tmp_path / "t.onnx",
        patches(kind),
        QuantizeOptions("tensorrt", "int8-fp32", layers=False),
    )
    proto = onnx.load(tmp_path / "t.onnx")
    assert min(result.output_snr_db.values()) > 20
    found = scales(proto)
    assert found or kind == "attention"
    for name, (scale, zero) in found.items():
        assert scale == pytest.approx(known.scales[name], rel=1e-6), name
        assert zero == 0


def dequantized_inputs(path: Path) -> dict[str, list[str]]:
    """Node → which of its inputs come from a DequantizeLinear, by the tensor before Q/DQ."""
    proto = onnx.load(path)
    quantized = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    before = {node.output[0]: quantized.get(node.input[0], node.input[0])
              for node in proto.graph.node if node.op_type == "DequantizeLinear"}  # fmt: skip
    return {node.name: [before[name] for name in node.input if name in before] for node in proto.graph.node}


def test_a_residual_add_and_a_kept_node_for_tensorrt(tmp_path: Path) -> None:
    """INT8 for the skip branch only: TensorRT adds it to the convolution's own result, in the same kernel."""
    path, known = calibrated("wide residual", tmp_path)
    for keep in ((), ("n_d",)):
        plan = QuantizeOptions("tensorrt", "int8-fp32", keep, layers=False)
        result = quantize(path, known, tmp_path / "t.onnx", patches("residual"), plan)
        assert result.kept == keep
        inputs = dequantized_inputs(tmp_path / "t.onnx")
        assert inputs["n_f"] == ["e", "w3"]
        assert inputs["n_d"] == ([] if keep else ["r", "w2"])
        assert inputs["n_s"] == ([] if keep else ["r"])


def test_one_cache_for_onnxruntime_and_tensorrt_rtx(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    """The same cache drives both engines; TensorRT-RTX's own parser and builder take the graph."""
    rtx: Any = importlib.import_module("tensorrt_rtx")
    frames = calibration_cache.samples(calibration)
    for_ort = quantize(model, calibration, tmp_path / "ort.onnx", frames, QuantizeOptions())
    for_trt = quantize(model, calibration, tmp_path / "trt.onnx", frames, QuantizeOptions("tensorrt", "int8-fp16"))
    assert min(for_ort.output_snr_db.values()) > 30
    assert min(for_trt.output_snr_db.values()) > 30
    for name, (scale, _) in scales(onnx.load(tmp_path / "ort.onnx")).items():
        low, high = calibration.bounds(name) or (0.0, 0.0)
        assert scale == pytest.approx((high - low) / 255, rel=1e-5)
    found = scales(onnx.load(tmp_path / "trt.onnx"))
    assert len(found) >= 6
    for name, (scale, zero) in found.items():
        assert scale == pytest.approx(calibration.scales[name], rel=2e-3), "float16 keeps 11 bits"
        assert zero == 0
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network()
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    assert parser.parse((tmp_path / "trt.onnx").read_bytes()), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    assert kinds.count(rtx.LayerType.QUANTIZE) >= len(found)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 1, 28, 28), (8, 1, 28, 28), (8, 1, 28, 28))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 100_000


def test_a_ranking_and_a_tensor_that_is_always_zero_for_tensorrt(tmp_path: Path) -> None:
    """RT-DETR's query selection: ReduceMax into TopK; and a branch that no frame excites."""
    path, known = calibrated("ranking", tmp_path)
    quantize(path, known, tmp_path / "q.onnx", patches("ranking"), QuantizeOptions("tensorrt", "int8-fp16"))
    proto = onnx.load(tmp_path / "q.onnx")
    made = {name: node.op_type for node in proto.graph.node for name in node.output}
    (top,) = (node for node in proto.graph.node if node.op_type == "TopK")
    assert made[top.input[0]] != "DequantizeLinear"
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    used = [constants[node.input[1]] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert all((scale.astype(np.float32) > 0).all() for scale in used)
    request = BuildRequest(tmp_path / "q.onnx", tmp_path / "q.engine", "int8", RTX_89)
    assert engines.get("tensorrt-rtx").build(request).engine.size_bytes > 0


def test_kept_nodes_stay_in_high_precision(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    frames = calibration_cache.samples(calibration)
    first = next(node.name for node in graph.load_onnx(model).graph.node if node.op_type == "Conv")
    plan = QuantizeOptions(keep=(first, "op:Gemm"))
    result = quantize(model, calibration, tmp_path / "q.onnx", frames, plan)
    assert first in result.kept
    assert len(result.kept) == 2
    proto = onnx.load(tmp_path / "q.onnx")
    dequantized = {name for node in proto.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kept = [node for node in proto.graph.node if node.name in result.kept]
    assert len(kept) == 2
    assert not any(dequantized & set(node.input[1:]) for node in kept), "their weights are float"
    all_in = quantize(model, calibration, tmp_path / "all.onnx", frames, QuantizeOptions())
    assert min(result.output_snr_db.values()) > min(all_in.output_snr_db.values())


def test_modelopt_leaves_onnxruntimes_quantizer_as_it_was(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    """ModelOpt deletes Relu, Concat and others from onnxruntime's registry; here it does so inside its block only."""
    from onnxruntime.quantization import calibrate as calibrators
    from onnxruntime.quantization.registry import QDQRegistry

    frames = calibration_cache.samples(calibration)
    before = (dict(QDQRegistry), calibrators.create_calibrator, calibrators.MinMaxCalibrater.collect_data)
    first = quantize(model, calibration, tmp_path / "1.onnx", frames, QuantizeOptions())
    quantize(model, calibration, tmp_path / "t.onnx", frames, QuantizeOptions("tensorrt", "int8-fp32"))
    after = (dict(QDQRegistry), calibrators.create_calibrator, calibrators.MinMaxCalibrater.collect_data)
    second = quantize(model, calibration, tmp_path / "2.onnx", frames, QuantizeOptions())
    assert after == before
    assert first.model.sha256 == second.model.sha256


def test_fp8_takes_the_same_ranges(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    result = quantize(
        model,
        calibration,
        tmp_path / "8.onnx",
        calibration_cache.samples(calibration),
        QuantizeOptions("tensorrt", "fp8"),
    )
    assert min(result.output_snr_db.values()) > 25
    proto = onnx.load(tmp_path / "8.onnx")
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    quantized = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    activations = [node for node in quantized if node.input[0] in calibration.scales]
    assert activations
    for node in activations:
        scale = float(numpy_helper.to_array(constants[node.input[1]]))
        assert scale == pytest.approx(calibration.scales[node.input[0]] * 127 / 448, rel=2e-3)


def test_half_is_near_and_names_what_it_left(model: Path, tmp_path: Path) -> None:
    result = to_half(model, list(pictures(model, 16)), tmp_path / "h.onnx", keep=("op:Gemm",))
    assert min(result.output_snr_db.values()) > 55
    assert len(result.kept) == 1
    proto = onnx.load(tmp_path / "h.onnx")
    halves = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) >= 10
    assert {value.type.tensor_type.elem_type for value in [*proto.graph.input, *proto.graph.output]} == {1}
    with pytest.raises(DataError, match="no frames"):
        to_half(model, [], tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


def test_half_leaves_in_single_what_half_cannot_hold(tmp_path: Path) -> None:
    """A layer whose results reach 100,000 overflows FP16; AutoCast sees it on the frames."""
    proto = tiny("residual")
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e5), "w2"))
    path = tmp_path / "big.onnx"
    onnx.save(proto, path)
    result = to_half(path, patches("residual"), tmp_path / "h.onnx")
    assert "n_d" in result.left or "n_s" in result.left
    assert min(result.output_snr_db.values()) > 40


def test_a_candidate_that_overflows_is_refused() -> None:
    reference = infer(tiny("residual"))
    broken = infer(tiny("residual"))
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(np.full((8, 8, 3, 3), np.inf, np.float32), "w2"))
    with pytest.raises(StageError, match="output 'y' holds NaN or infinity"):
        compare.compare(reference, broken, patches("residual"))


def test_noise_is_in_decibels_and_names_the_layer() -> None:
    """A thousandth added to one weight tensor: that layer and those after it, not those before."""
    reference, changed = infer(tiny("residual")), infer(tiny("residual"))
    weight = next(tensor for tensor in changed.graph.initializer if tensor.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), "w2"))
    compared = compare.compare(reference, changed, patches("residual"))
    by_node = {layer.node: layer.snr_db for layer in compared.layers}
    assert by_node["n_c"] == compare.CEILING_DB
    assert by_node["n_d"] == pytest.approx(60.0, abs=0.1)
    assert compare.worst(compared.layers, 1)[0].node == "n_d"
    session = Running(reference)
    assert compare.compare(reference, reference, patches("residual")).output_snr_db == compare.CEILING_DB
    assert session.session.get_outputs()[0].name in compared.outputs


def test_missing_tensors_and_wrong_requests_are_refused(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    frames = calibration_cache.samples(calibration)
    plain = tmp_path / "plain.cache"
    lines = calibration.path.read_text().splitlines()
    gone = lines.pop(3).partition(":")[0]
    plain.write_text("\n".join(lines) + "\n")
    partial = calibration_cache.load(plain, calibration_cache.Expected(), trust=True)
    for style in ("onnxruntime", "tensorrt"):
        with pytest.raises(CacheError, match="lacks 1 of the tensors") as refused:
            quantize(model, partial, tmp_path / "q.onnx", frames, QuantizeOptions(style_named(style), "int8-fp32"))
        assert gone in refused.value.found
    with pytest.raises(PrecisionError, match="fp8 was asked for"):
        quantize(model, calibration, tmp_path / "q.onnx", frames, QuantizeOptions(precision="fp8"))
    with pytest.raises(CacheError, match="needs a calibration cache"):
        quantize(model, None, tmp_path / "q.onnx", frames, QuantizeOptions())
    with pytest.raises(DataError, match="no frames to quantize for tensorrt"):
        quantize(model, calibration, tmp_path / "q.onnx", [], QuantizeOptions("tensorrt", "int8-fp32"))
    with pytest.raises(UserInputError, match="unknown precision"):
        precision_named("int3")
    with pytest.raises(UserInputError, match="unknown engine"):
        style_named("coreml")
    assert not (tmp_path / "q.onnx").exists()


def test_a_trusted_plain_cache_quantizes(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.cache"
    plain.write_text(calibration.path.read_text())
    trusted = calibration_cache.load(plain, calibration_cache.Expected(), trust=True)
    result = quantize(model, trusted, tmp_path / "q.onnx", calibration_cache.samples(calibration), QuantizeOptions())
    assert min(result.output_snr_db.values()) > 28


@pytest.mark.slow
def test_the_commands(model: Path, tmp_path: Path) -> None:
    """Calibrate from a folder, quantize from the cache alone, refuse another model's cache."""
    images = str(Path(__file__).parents[3] / "examples" / "fashion" / "calib")
    settings = ["-p", "fit=stretch", "-p", "color=gray", "-p", "mean=73", "-p", "std=90"]
    out = tmp_path / "calib.cache"
    np.savez(tmp_path / "val.npz", images=np.stack([feeds["images"][0] for _, feeds in pictures(model, 4, batch=1)]))
    asked = ["calibrate", model, "--images", images, *settings, "--count", "64", "-o", out]
    first = edgeship(*asked, "--evaluation", tmp_path / "val.npz")
    assert first.returncode == 0, first.stderr
    assert "the calibration frames are files, the evaluation images ready arrays" in " ".join(first.stdout.split())
    assert "method" in first.stdout
    assert "dB on held-out frames" in first.stdout
    second = edgeship("quantize", model, "--cache", out, "--for", "onnxruntime", "-o", tmp_path / "q.onnx")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "q.onnx").is_file()
    mean = ["-p", "fit=stretch", "-p", "color=gray", "-p", "mean=0", "-p", "std=90"]
    wrong = edgeship("quantize", model, "--cache", out, "--images", images, *mean, "-o", tmp_path / "w.onnx")
    assert wrong.returncode == 2
    assert "preprocessing: made with other settings: mean was [73.0], here [0.0]" in wrong.stderr
    onnx.save(tiny("residual"), tmp_path / "other.onnx")
    third = edgeship("quantize", tmp_path / "other.onnx", "--cache", out, "-o", tmp_path / "o.onnx", "--json")
    assert third.returncode == 2
    assert "graph: made from another model" in third.stdout
    fourth = edgeship("calibrate", model, "-o", out)
    assert fourth.returncode == 2
    assert "random data is never used" in fourth.stderr


@pytest.mark.slow
def test_a_plain_tensorrt_cache_at_the_command_line(
    model: Path, calibration: calibration_cache.CalibrationCache, tmp_path: Path
) -> None:
    """A cache from elsewhere: refused, taken with --trust-cache and frames, refused without frames."""
    plain, out = tmp_path / "elsewhere.cache", tmp_path / "q.onnx"
    plain.write_text(calibration.path.read_text().replace(calibration_cache.HEADER, "TRT-8601-MinMaxCalibration"))
    asked = ["quantize", str(model), "--cache", str(plain), "-o", str(out)]
    images = ["--images", str(Path(__file__).parents[3] / "examples" / "fashion" / "calib")]
    settings = ["-p", "fit=stretch", "-p", "color=gray", "-p", "mean=73", "-p", "std=90"]
    refused = edgeship(*asked, *images, *settings)
    assert refused.returncode == 2
    assert "--trust-cache" in refused.stderr
    blind = edgeship(*asked, "--trust-cache")
    assert blind.returncode == 2
    assert "random data is never used" in blind.stderr
    assert not out.exists()
    taken = edgeship(*asked, "--trust-cache", *images, *settings, "--json")
    assert taken.returncode == 0, taken.stderr
    for name, (scale, _) in scales(onnx.load(out)).items():
        low, high = calibration_cache.load(plain, calibration_cache.Expected(), trust=True).bounds(
            name, (0.0, math.inf)
        ) or (0.0, 0.0)
        assert scale == pytest.approx((high - low) / 255, rel=1e-5) or scale == pytest.approx(2 * high / 255, rel=1e-5)


def test_a_kept_layer_is_float_in_previews(tmp_path: Path) -> None:
    """onnxruntime would quantize the weights of a float layer between Q/DQ nodes by ranges of its own."""
    path, known = calibrated("residual", tmp_path)
    reference = infer(graph.load_onnx(path))
    proto = ort_graph(reference, known, {"n_d": "kept"})
    found = {
        optimize: compare.compare(reference, proto, patches("residual"), layers=False, optimize=optimize).output_snr_db
        for optimize in (True, False)
    }
    assert found[True] == pytest.approx(found[False], abs=0.02)
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    plain = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ours, off = Running(proto), compare.Snr()
    for _, feeds in patches("residual"):
        off.add(ours.run(None, feeds)[0], plain.run(None, feeds)[0])
    assert off.db < 40, "the optimizer that is left out changes nothing any more: leave it in"


@pytest.mark.slow
def test_attention_for_tensorrt(tmp_path: Path) -> None:
    """The four linear layers and the patch convolution are INT8, from the cache; both attention products stay float.

    That is where ModelOpt 0.47 places Q/DQ in a block written as MatMul, Softmax, MatMul; TensorRT fuses the float
    products into one attention kernel.
    """
    settings = {"source": "networks:VisionBlock", "inputs": {"images": {"shape": ["batch", 1, 28, 28]}}}
    exported = export(Model.model_validate(settings), Path(__file__).parent, tmp_path / "model.onnx")
    slim(tmp_path / exported.model.path, tmp_path / "vit.onnx")
    frames = pictures(tmp_path / "vit.onnx", 64)
    calibrate(tmp_path / "vit.onnx", frames, tmp_path / "calib.cache", CalibrateOptions(method="minmax"))
    known = calibration_cache.load(tmp_path / "calib.cache", calibration_cache.Expected())
    plan = QuantizeOptions("tensorrt", "int8-fp32", layers=False)
    result = quantize(tmp_path / "vit.onnx", known, tmp_path / "t.onnx", calibration_cache.samples(known), plan)
    assert min(result.output_snr_db.values()) > 30
    proto = onnx.load(tmp_path / "t.onnx")
    dequantized = {name for node in proto.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    sides = [sum(name in dequantized for name in node.input) for node in proto.graph.node if node.op_type == "MatMul"]
    assert sorted(sides) == [0, 0, 2, 2, 2, 2]
    assert all(not dequantized.intersection(node.input) for node in proto.graph.node if node.op_type == "Softmax")
    found = scales(proto)
    assert len(found) >= 5
    for name, (scale, zero) in found.items():
        assert scale == pytest.approx(known.scales[name], rel=1e-6), name
        assert zero == 0
