"""The onnxruntime engine on the CPU: built, audited, opened and refused with real sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_onnx import convolutions, images, nonzero, quantized, reference

from edgeship import engines
from edgeship.config import Batch, ShapeRange, Target
from edgeship.engines import BuildRequest, OpenOptions, processor
from edgeship.engines.ort import session as sessions
from edgeship.engines.ort.session import make_session
from edgeship.errors import BuildError, DataError, DeviceError, ModelError, PrecisionError, UserInputError
from processes import python

ENGINE = engines.get("onnxruntime")
TARGET = Target(batch=Batch(min=1, opt=2, max=4), threads=1)


def request_for(onnx_file: Path, precision: str = "fp32", **changes) -> BuildRequest:
    place = onnx_file.parent / "built"
    values = {"target": TARGET, "log": place / "build.log"} | changes
    return BuildRequest(onnx=onnx_file, output=place / "engine.onnx", precision=precision, **values)


def test_the_probe_names_the_version_and_the_cpu() -> None:
    probe = ENGINE.probe()
    assert probe.available
    assert probe.version == onnxruntime.__version__
    assert probe.devices[0] == "cpu"


def test_a_build_ships_what_onnxruntime_optimized_with_the_same_outputs(fp32: Path) -> None:
    request = request_for(fp32)
    built = ENGINE.build(request)
    operators = {node.op_type for node in onnx.load(request.output).graph.node}
    assert "Relu" not in operators, "the optimized graph fuses the activations"
    assert built.profiles == {"images": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}
    assert built.engine.path == "engine.onnx"
    assert built.log is not None
    assert onnxruntime.__version__ in (request.output.parent / "build.log").read_text()
    assert [(info.name, info.shape, info.dtype) for info in built.inputs] == [
        ("images", ("batch", 3, 32, 32), "float32")
    ]
    with ENGINE.open(request.output, OpenOptions(threads=1)) as runner:
        found = runner.infer(images(3))["logits"]
    np.testing.assert_allclose(found, reference(fp32, images(3)), rtol=1e-5, atol=1e-5)


def test_no_scratch_files_stay_behind(fp32: Path) -> None:
    request = request_for(fp32)
    ENGINE.build(request)
    assert sorted(path.name for path in request.output.parent.iterdir()) == ["build.log", "engine.onnx"]


def test_the_timer_gives_the_outputs_of_infer(fp32: Path) -> None:
    request = request_for(fp32)
    ENGINE.build(request)
    with ENGINE.open(request.output, OpenOptions()) as runner:
        timer = runner.timer(images(2))
        taken = timer()
        assert taken.wall_ms > 0
        assert taken.device_ms is None
        np.testing.assert_array_equal(timer.outputs()["logits"], runner.infer(images(2))["logits"])


def test_outputs_of_a_size_that_depends_on_the_data(tmp_path: Path) -> None:
    request = request_for(nonzero(tmp_path / "net.onnx"))
    ENGINE.build(request)
    values = {"values": np.array([0, 1, 0, 2, 3], np.float32)}
    with ENGINE.open(request.output, OpenOptions()) as runner:
        assert runner.infer(values)["places"].tolist() == [[1, 3, 4]]
        timer = runner.timer(values)
        timer()
        assert timer.outputs()["places"].tolist() == [[1, 3, 4]]


def test_wrong_feeds_are_one_error_with_everything_in_it(fp32: Path) -> None:
    request = request_for(fp32)
    ENGINE.build(request)
    with ENGINE.open(request.output, OpenOptions()) as runner:
        with pytest.raises(DataError) as caught:
            runner.infer({"image": np.zeros(3, np.float32)})
        assert "'image' is not an input" in str(caught.value)
        assert "'images' is missing" in str(caught.value)
        assert "'images' float32 [batch, 3, 32, 32]" in str(caught.value)
        with pytest.raises(DataError, match=r"is float64, not float32; 'images' has shape \(2, 3, 31, 32\)"):
            runner.infer({"images": np.zeros((2, 3, 31, 32))})
        with pytest.raises(DataError, match="is a list"):
            runner.timer({"images": [[1.0]]})  # type: ignore[dict-item]


def test_the_audit_of_fp32_finds_all_layers_in_fp32(fp32: Path) -> None:
    request = request_for(fp32)
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, request, OpenOptions(threads=1))
    assert audit.source == "profile"
    assert audit.layers == {"Conv": {"fp32": 4}, "MatMul": {"fp32": 1}}
    assert audit.achieved == 1.0
    assert audit.hottest[0][0] == "Conv fp32"
    assert sum(share for _, share in audit.hottest) == pytest.approx(1.0, abs=0.01)


def test_the_audit_of_int8_reads_what_really_ran(int8: Path) -> None:
    request = request_for(int8, "int8")
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, request, OpenOptions(threads=1))
    assert audit.layers["Conv"] == {"int8": 4}
    assert audit.achieved == 1.0
    assert audit.missed == ()


MACS = (3 * 16 * 9 * 1024, *[16 * 16 * 9 * 1024] * 3, 160)
"""Multiply-accumulates of one image in the four convolutions and the product of the network."""
IN_INT8 = 1 - MACS[1] / sum(MACS)


@pytest.mark.parametrize(("keep", "achieved"), [(("conv1",), 1.0), (("conv[12]",), 1.0), ((), IN_INT8)])
def test_kept_and_missed_layers_are_named_as_the_user_wrote_them(fp32: Path, tmp_path: Path, keep, achieved) -> None:
    mixed = quantized(fp32, tmp_path / "net.onnx", keep=("conv1",))
    request = request_for(mixed, "int8", keep=keep)
    ENGINE.build(request)
    audit = ENGINE.audit(request.output, request, OpenOptions(threads=1))
    assert audit.layers["Conv"] == {"int8": 3, "fp32": 1}
    assert audit.achieved == pytest.approx(achieved)
    assert audit.arithmetic == pytest.approx(IN_INT8) and audit.weighed_by == "multiply-accumulates"
    kept = {(): 0.0, ("conv1",): 1 - IN_INT8, ("conv[12]",): 2 * MACS[1] / sum(MACS)}
    assert audit.kept_share == pytest.approx(kept[keep])
    missed = [(layer.name, layer.precision) for layer in audit.missed]
    assert missed == ([] if keep else [("conv1", "fp32")])
    assert set(audit.kept) == ({"conv1"} if keep == ("conv1",) else {"conv1", "conv2"} if keep else set())


def test_fp16_on_a_cpu_without_such_kernels_is_refused_with_what_really_ran(tmp_path: Path) -> None:
    half = convolutions(tmp_path / "net.onnx", half=True)
    session = onnxruntime.InferenceSession(str(half), providers=["CPUExecutionProvider"])
    assert session.run(None, images(1, dtype=np.float16))[0].dtype == np.float16, "it runs, silently in fp32"
    with pytest.raises(PrecisionError, match=r"runs none of it: .* 5 in fp32") as caught:
        ENGINE.build(request_for(half, "fp16"))
    assert "'fp32' or 'int8'" in str(caught.value)
    assert not (tmp_path / "built" / "engine.onnx").exists()


def test_an_fp32_graph_passed_off_as_int8_is_refused(fp32: Path) -> None:
    with pytest.raises(PrecisionError, match=r"int8 was asked for, and onnxruntime on .* 5 in fp32"):
        ENGINE.build(request_for(fp32, "int8"))


@pytest.mark.parametrize("precision", ["fp8", "implicit"])
def test_precisions_without_kernels_are_refused_at_once(fp32: Path, precision: str) -> None:
    with pytest.raises(PrecisionError, match=f"no {precision} kernels"):
        ENGINE.build(request_for(fp32, precision))


def test_cuda_without_a_cuda_provider_is_an_error_and_not_a_fallback(fp32: Path) -> None:
    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), "this test is for a CPU build"
    with pytest.raises(DeviceError, match="installed here has no CUDA provider"):
        make_session(fp32, OpenOptions(device="cuda:0", cuda_graph=True))
    with pytest.raises(DeviceError):
        ENGINE.open(fp32, OpenOptions(device="cuda:0", cuda_graph=True))


@pytest.mark.parametrize("device", ["tpu", "gpu:0"])
def test_an_unknown_device_is_named(fp32: Path, device: str) -> None:
    with pytest.raises(DeviceError, match=r"knows no device|is not a CUDA device"):
        ENGINE.open(fp32, OpenOptions(device=device))


def test_a_dla_is_refused(fp32: Path) -> None:
    with pytest.raises(DeviceError, match="cannot use a DLA"):
        ENGINE.build(request_for(fp32, target=Target(dla_core=0)))


def test_a_truncated_file_is_refused(fp32: Path, tmp_path: Path) -> None:
    cut = tmp_path / "net.onnx"
    cut.write_bytes(fp32.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"net\.onnx is not a readable ONNX file"):
        ENGINE.build(request_for(cut))
    with pytest.raises(UserInputError, match="no engine file"):
        ENGINE.open(tmp_path / "absent.onnx", OpenOptions())


def test_an_engine_that_would_need_a_file_beside_it_is_refused(fp32: Path, tmp_path: Path) -> None:
    outside = tmp_path / "net.onnx"
    onnx.save(onnx.load(fp32), outside, save_as_external_data=True, location="net.data", size_threshold=0)
    for place in (tmp_path / "built", tmp_path):
        request = replace(request_for(outside), output=place / "engine.onnx")
        with pytest.raises(BuildError, match="does not open alone") as caught:
            ENGINE.build(request)
        assert f"edgeship slim {outside} -o" in str(caught.value)
        assert not request.output.exists(), "beside the weights it would open here and nowhere else"


def test_an_engine_of_more_than_one_file_holds_names_what_would_fit(
    fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeship.engines.ort.engine.ONE_FILE", 100)
    outside = tmp_path / "net.onnx"
    onnx.save(onnx.load(fp32), outside, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    with pytest.raises(BuildError, match="is one ONNX file, which holds 2 GiB") as caught:
        ENGINE.build(replace(request_for(outside), output=tmp_path / "built" / "engine.onnx"))
    assert "INT8 or FP16" in (caught.value.do or "")


def test_a_second_dynamic_axis_needs_its_range(tmp_path: Path) -> None:
    model = onnx.load(convolutions(tmp_path / "net.onnx"))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(BuildError, match="dynamic axes side2, side3 beside the batch") as caught:
        ENGINE.build(request_for(tmp_path / "net.onnx"))
    assert "[target.shapes.images]" in str(caught.value)
    shapes = {"images": ShapeRange(min=(1, 3, 16, 16), opt=(1, 3, 24, 24), max=(2, 3, 48, 48))}
    built = ENGINE.build(request_for(tmp_path / "net.onnx", target=Target(shapes=shapes)))
    assert built.profiles["images"] == ((1, 3, 16, 16), (1, 3, 24, 24), (2, 3, 48, 48))


def test_identity_and_misfits() -> None:
    here = ENGINE.identity("cpu")
    assert here.version == onnxruntime.__version__
    assert ENGINE.misfits(here, "cpu") == []
    other = here.model_copy(update={"version": "1.0", "device": "Another CPU", "platform": "aarch64-linux"})
    found = ENGINE.misfits(other, "cpu")
    assert len(found) == 2
    assert f"onnxruntime 1.0 optimized it, {onnxruntime.__version__} is installed" in found


def test_instruction_sets_fit_a_processor_and_not_its_name() -> None:
    here = ENGINE.identity("cpu")
    assert here.arithmetic == "exact" and here.instruction_sets == processor.instruction_sets()
    named = here.model_copy(update={"device": "Another CPU"})
    assert ENGINE.misfits(named, "cpu") == []
    wider = named.model_copy(update={"instruction_sets": (*here.instruction_sets, "avx9_vnni")})
    lacks = f"measured on 'Another CPU' with avx9_vnni, which this {here.device!r} lacks"
    assert ENGINE.misfits(wider, "cpu") == [lacks]
    assert ENGINE.misfits(wider.model_copy(update={"portable": True}), "cpu") == [lacks]
    first, *rest = here.instruction_sets
    fewer = named.model_copy(update={"instruction_sets": tuple(rest)})
    assert ENGINE.misfits(fewer, "cpu") == [
        f"optimized for 'Another CPU', which lacks the {first} of this {here.device!r}"
    ]
    assert ENGINE.misfits(fewer.model_copy(update={"portable": True}), "cpu") == []


def test_a_build_says_whether_its_file_is_portable(fp32: Path, tmp_path: Path) -> None:
    assert not ENGINE.build(request_for(fp32)).identity.portable
    noisy = onnx.load(fp32)
    output = noisy.graph.output[0].name
    for node in noisy.graph.node:
        node.output[:] = ["clean" if name == output else name for name in node.output]
    noisy.graph.node.extend(
        [
            onnx.helper.make_node("RandomNormalLike", ["clean"], ["noise"], "noise"),
            onnx.helper.make_node("Add", ["clean", "noise"], [output], "add"),
        ]
    )
    onnx.save(noisy, tmp_path / "noisy.onnx")
    request = request_for(tmp_path / "noisy.onnx")
    built = ENGINE.build(request)
    assert built.identity.portable
    assert "ships the candidate's own ONNX" in built.notes[0]
    assert request.output.read_bytes() == (tmp_path / "noisy.onnx").read_bytes()


def test_building_needs_neither_torch_nor_onnx(fp32: Path) -> None:
    code = f"""
import sys
from pathlib import Path
for name in ("torch", "onnx"):
    sys.modules[name] = None
from edgeship import engines
from edgeship.config import Target
model = Path({str(fp32)!r})
request = engines.BuildRequest(model, model.parent / "alone" / "engine.onnx", "fp32", Target())
engine = engines.get("onnxruntime")
engine.build(request)
print(engine.audit(request.output, request, engines.OpenOptions()).achieved)
"""
    done = python("-c", code)
    assert done.stdout.strip() == "1.0", done.stderr


@pytest.mark.parametrize(("shape", "words"), [((1, -1), "both answered"), ((1, 192), "does not run with")])
def test_a_batch_that_the_graph_does_not_serve_is_not_reported(tmp_path: Path, shape, words: str) -> None:
    values = helper.make_tensor_value_info
    made = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["flat"], "flat"),
            helper.make_node("ReduceMax", ["flat"], ["y"], "most", keepdims=1),
        ],
        "g",
        [values("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [values("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array(shape, np.int64), "shape")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=words):
        ENGINE.build(request_for(tmp_path / "net.onnx"))


@pytest.mark.parametrize("content", ["half", "text", "nothing"])
def test_a_file_that_is_not_a_whole_onnx_file_is_refused_in_our_words(tmp_path: Path, fp32: Path, content: str) -> None:
    data = {"half": fp32.read_bytes()[:200], "text": b"no model " * 20, "nothing": b""}[content]
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"is not a readable ONNX file|is empty") as refused:
        ENGINE.open(tmp_path / "net.onnx", OpenOptions())
    assert "onnxruntime says" not in str(refused.value)


def test_sessions_are_made_by_one_call() -> None:
    source = Path(sessions.__file__).parents[2]
    assert source.name == "edgeship"
    calls = {
        path.relative_to(source).as_posix(): text.count("InferenceSession(")
        for path in source.rglob("*.py")
        if "InferenceSession(" in (text := path.read_text(encoding="utf-8"))
    }
    assert calls == {"engines/ort/session.py": 1}
