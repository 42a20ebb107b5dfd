"""The OpenVINO engine on the CPU: built, audited, opened and refused with real networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_onnx import images, nonzero, reference, save

from edgeship import engines
from edgeship.cli.bench import engine_of
from edgeship.config import Batch, ShapeRange, Target
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.engines.openvino.library import new_core
from edgeship.engines.openvino.plan import EnginePlan, marked, read_file
from edgeship.errors import ArtifactError, BuildError, DataError, DeviceError, EngineError, ModelError, PrecisionError
from edgeship.files import sha256_file

ENGINE = engines.get("openvino")
TARGET = Target(engine="openvino", batch=Batch(min=1, opt=2, max=4), threads=1)
OPTIONS = OpenOptions(threads=1)
OFFERED = new_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def request_for(onnx_file: Path, precision: str = "fp32", name: str = "engine", **changes) -> BuildRequest:
    place = onnx_file.parent / "built"
    values = {"target": TARGET, "log": place / f"{name}.log"} | changes
    return BuildRequest(onnx=onnx_file, output=place / f"{name}.onnx", precision=precision, **values)


@pytest.fixture(scope="module")
def built(fp32) -> BuildRequest:
    request = request_for(fp32)
    ENGINE.build(request)
    return request


def test_fp32_is_computed_in_fp32_whatever_the_processor_prefers(fp32: Path, built: BuildRequest) -> None:
    with ENGINE.open(built.output, OPTIONS) as runner:
        for rows in (1, 2, 3):
            found = runner.infer(images(rows))["logits"]
            np.testing.assert_allclose(found, reference(fp32, images(rows)), rtol=1e-5, atol=1e-5)
    audit = ENGINE.audit(built.output, built, OPTIONS)
    assert audit.layers == {"Conv": {"fp32": 4}, "MatMul": {"fp32": 1}}
    assert (audit.achieved, audit.weighed_by) == (1.0, "multiply-accumulates")
    assert [layer.nodes for layer in audit.order if layer.role == "product"][:2] == [("conv0",), ("conv1",)]


def test_the_audit_weighs_layers_by_their_multiply_accumulates(tmp_path: Path) -> None:
    """A grouped convolution, whose weights OpenVINO orders by groups: the share of a kept layer tells its weight."""
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 2, 3, 3), "w1": (4, 8, 1, 1)}
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["c"], "grouped", group=4, pads=[1] * 4),
        helper.make_node("Conv", ["c", "w1"], ["out"], "plain"),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 8, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, 16, 16])
    request = request_for(save(tmp_path / "net.onnx", helper.make_graph(nodes, "g", [given], [out], weights)))
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, replace(request, keep=("grouped",)), OPTIONS)
    assert audit.kept == ("grouped",)
    assert audit.kept_share == pytest.approx(8 * 2 * 9 / (8 * 2 * 9 + 4 * 8))


def test_layers_with_a_bias_are_known_by_the_names_of_the_candidate(tmp_path: Path) -> None:
    """OpenVINO calls their kernels ``NAME/WithoutBiases`` or by a number, and lists ours behind."""
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 4, 2, 2), "b1": (4,), "w2": (4, 5), "b2": (5,)}
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w0", "b0"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ConvTranspose", ["r", "w1", "b1"], ["t"], "up", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["t"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["out"], "fc"),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 5])
    request = request_for(save(tmp_path / "net.onnx", helper.make_graph(nodes, "g", [given], [out], weights)))
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, replace(request, keep=("first", "up", "fc")), OPTIONS)
    assert audit.kept == ("first", "up", "fc")
    assert audit.kept_share == 1.0


def test_a_qdq_graph_runs_in_int8(int8: Path) -> None:
    request = request_for(int8, "int8-fp32")
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, request, OPTIONS)
    assert audit.layers == {"Conv": {"int8": 4}, "MatMul": {"int8": 1}}
    with ENGINE.open(request.output, OPTIONS) as runner:
        found = runner.infer(images(2))["logits"]
    wanted = reference(int8, images(2))
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9, "near, though processors without VNNI saturate"


def test_a_graph_without_qdq_nodes_is_not_int8(fp32: Path) -> None:
    with pytest.raises(PrecisionError, match="runs none of it: of the convolutions and matrix products, 4 in fp32"):
        ENGINE.build(request_for(fp32, "int8-fp32", "not8"))
    assert not (fp32.parent / "built" / "not8.onnx").exists()


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("fp16", "FP16")])
def test_half_precision_is_what_was_asked_for_or_refused(fp32: Path, precision: str, capability: str) -> None:
    request = request_for(fp32, precision, precision)
    if capability not in OFFERED:
        with pytest.raises(PrecisionError, match=f"has no {capability} kernels"):
            ENGINE.build(request)
        return
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, request, OPTIONS)
    assert audit.layers["Conv"] == {precision: 4}
    with ENGINE.open(request.output, OPTIONS) as runner:
        found = runner.infer(images(2))["logits"]
    wanted = reference(fp32, images(2))
    assert 0 < np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
    with pytest.raises(PrecisionError, match="computes all of a network in"):
        ENGINE.build(replace(request, keep=("conv0",)))


@pytest.mark.parametrize("precision", ["fp8", "implicit"])
def test_precisions_without_kernels_are_refused(fp32: Path, precision: str) -> None:
    with pytest.raises(PrecisionError, match=f"no {precision} kernels"):
        ENGINE.build(request_for(fp32, precision, precision))


def test_a_profile_of_one_shape_is_compiled_once_and_takes_nothing_else(fp32: Path) -> None:
    request = request_for(fp32, name="fixed", target=Target(engine="openvino", batch=Batch(min=2, opt=2, max=2)))
    made = ENGINE.build(request)
    assert made.inputs[0].shape == (2, 3, 32, 32)
    with ENGINE.open(request.output, OPTIONS) as runner:
        assert runner.infer(images(2))["logits"].shape == (2, 10)
        with pytest.raises(DataError, match=r"has shape \(3, 3, 32, 32\)"):
            runner.infer(images(3))


def test_the_timer_gives_the_outputs_of_infer(built: BuildRequest) -> None:
    with ENGINE.open(built.output, OPTIONS) as runner:
        feeds = images(2)
        timer = runner.timer(feeds)
        wanted = runner.infer(feeds)["logits"]
        feeds["images"][:] = 0
        assert timer().wall_ms > 0
        np.testing.assert_array_equal(timer.outputs()["logits"], wanted)
    with pytest.raises(EngineError, match="closed"):
        runner.infer(images(2))


def test_outputs_do_not_change_with_the_next_frame(built: BuildRequest) -> None:
    with ENGINE.open(built.output, OPTIONS) as runner:
        first = runner.infer(images(2))["logits"]
        kept = first.copy()
        runner.infer(images(2, seed=1))
        np.testing.assert_array_equal(first, kept)


def test_frames_that_may_not_be_written_are_read(built: BuildRequest) -> None:
    frame = images(2)
    with ENGINE.open(built.output, OPTIONS) as runner:
        wanted = runner.infer(frame)["logits"]
        frame["images"].flags.writeable = False
        np.testing.assert_array_equal(runner.infer(frame)["logits"], wanted)


def test_outputs_of_a_size_that_depends_on_the_data(tmp_path: Path) -> None:
    shapes = {"values": ShapeRange(min=(1,), opt=(5,), max=(9,))}
    request = request_for(nonzero(tmp_path / "net.onnx"), target=Target(engine="openvino", shapes=shapes))
    ENGINE.build(request)
    with ENGINE.open(request.output, OPTIONS) as runner:
        for values, places in (([0, 1, 0, 2, 3], [1, 3, 4]), ([1, 1, 0], [0, 1]), ([0, 0, 0, 0, 7], [4])):
            found = runner.infer({"values": np.array(values, np.float32)})
            assert found["places"].tolist() == [places]


def test_the_mark_survives_in_the_file_and_names_its_engine(fp32: Path, built: BuildRequest) -> None:
    onnx.checker.check_model(onnx.load(built.output))
    plan = read_file(built.output.read_bytes(), "engine.onnx").plan
    assert plan == EnginePlan("f32", {"images": (2, 3, 32, 32)}, dynamic=True)
    assert (engine_of(built.output), engine_of(fp32)) == ("openvino", "onnxruntime")


@pytest.mark.parametrize(
    "change",
    [
        {"arithmetic": "f4"},
        {"shapes": {"other": (1, 3, 32, 32)}},
        {"shapes": {"images": (0, 3, 32, 32)}},
        {"shapes": {"images": ("x",)}},
    ],
)
def test_a_damaged_mark_is_refused(fp32: Path, tmp_path: Path, change: dict[str, object]) -> None:
    plan = replace(EnginePlan("f32", {"images": (2, 3, 32, 32)}), **change)
    (tmp_path / "engine.onnx").write_bytes(marked(fp32.read_bytes(), plan))
    with pytest.raises(ArtifactError, match="the mark of the OpenVINO engine"):
        ENGINE.open(tmp_path / "engine.onnx", OPTIONS)


def test_a_changed_file_and_one_with_weights_elsewhere_are_refused(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="changed after it was checked"):
        ENGINE.open(fp32, replace(OPTIONS, sha256="0" * 64))
    assert ENGINE.open(fp32, replace(OPTIONS, sha256=sha256_file(fp32))).inputs[0].name == "images"
    onnx.save(onnx.load(fp32), tmp_path / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(BuildError, match="outside the file"):
        ENGINE.build(request_for(tmp_path / "net.onnx"))
    with pytest.raises(ModelError, match="outside the file"):
        ENGINE.open(tmp_path / "net.onnx", OPTIONS)


def test_devices_of_others_are_refused(built: BuildRequest) -> None:
    with pytest.raises(DeviceError, match="knows no device 'cuda:0'"):
        ENGINE.open(built.output, OpenOptions(device="cuda:0"))
    with pytest.raises(DeviceError, match=r"OpenVINO .* finds .*CPU"):
        ENGINE.identity("gpu:7")


def test_an_engine_fits_where_version_platform_and_instruction_sets_are_the_same() -> None:
    here = ENGINE.identity("cpu")
    assert ENGINE.misfits(here, "cpu") == []
    other = here.model_copy(update={"version": "2024.0.0", "platform": "aarch64-linux"})
    assert len(ENGINE.misfits(other, "cpu")) == 2
    richer = here.model_copy(update={"instruction_sets": (*here.instruction_sets, "sve2"), "device": "Other"})
    assert ENGINE.misfits(richer, "cpu") == [f"measured on 'Other' with sve2, which this {here.device!r} lacks"]
    poorer = here.model_copy(update={"instruction_sets": here.instruction_sets[:1]})
    assert ENGINE.misfits(poorer, "cpu") == []


def test_what_openvino_refuses_is_one_error(tmp_path: Path) -> None:
    node = helper.make_node("Trilu", ["x"], ["y"], "n")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])
    path = save(tmp_path / "net.onnx", helper.make_graph([node], "g", [x], [y]))
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"OpenVINO says: .*NoSuchOperator"):
        ENGINE.build(request_for(path))
