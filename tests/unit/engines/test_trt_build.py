"""Builds, options and refusals on the real TensorRT-RTX builder."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_onnx import convolutions, reshaped

from edgeship import engines
from edgeship.config import Batch, Target
from edgeship.engines import BuildRequest, OpenOptions, cuda
from edgeship.engines.trt import build, engine, implicit, timing_cache
from edgeship.engines.trt import flavour as trt
from edgeship.engines.trt import network as trt_network
from edgeship.engines.trt.plan import read_plan
from edgeship.errors import (
    BuildError,
    CacheError,
    ConfigError,
    DataError,
    DeviceError,
    EngineMismatch,
    ModelError,
    PrecisionError,
    UserInputError,
)
from edgeship.results import Identity

RTX = engines.get("tensorrt-rtx")


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    model = convolutions(tmp_path / "model.onnx")
    target = Target(
        engine="tensorrt-rtx", device="cuda:0", batch=Batch(min=1, opt=2, max=4), compute_capability=("8.6",)
    )
    return BuildRequest(model, tmp_path / "engine.engine", "fp32", target, log=tmp_path / "build.log")


def with_target(request: BuildRequest, **changes: object) -> BuildRequest:
    return replace(request, target=request.target.model_copy(update=changes))


def test_a_real_engine_with_its_log_and_its_profile(request_: BuildRequest) -> None:
    said: list[str] = []
    request_ = replace(request_, progress=lambda done, total, what: said.append(what))
    done = RTX.build(request_)
    assert read_plan(request_.output).version == done.identity.version
    assert done.profiles == {"images": ((1, 3, 32, 32), (2, 3, 32, 32), (4, 3, 32, 32))}
    assert [tensor.shape for tensor in done.outputs] == [("batch", 10)]
    assert request_.log is not None
    assert "[I]" in request_.log.read_text()
    assert set(said) == {"building"}
    audit = RTX.audit(request_.output, request_, OpenOptions())
    assert audit.layers["Conv"] == {"fp32": 4}
    assert audit.layers["MatMul"] == {"fp32": 1}
    assert audit.achieved == 1.0


def test_a_half_precision_graph_is_audited_as_such(request_: BuildRequest) -> None:
    convolutions(request_.onnx, half=True)
    request_ = replace(request_, precision="fp16")
    RTX.build(request_)
    assert RTX.audit(request_.output, request_, OpenOptions()).layers["Conv"] == {"fp16": 4}


def test_asked_for_precision_that_the_graph_has_not_is_refused(request_: BuildRequest) -> None:
    for precision in ("fp16", "int8", "int8-fp32"):
        with pytest.raises(PrecisionError, match="is fp32: TensorRT-RTX"):
            RTX.build(replace(request_, precision=precision))
    assert not request_.output.exists()


def test_the_implicit_path_is_refused_with_the_way_to_do_it_here(request_: BuildRequest) -> None:
    with pytest.raises(PrecisionError) as caught:
        RTX.build(replace(request_, precision="implicit"))
    assert "edgeship quantize" in str(caught.value.do)


@pytest.mark.parametrize(("capabilities", "named"), [(("8.6",), "8.6"), (("7.5", "8.9", "8.6"), "7.5, 8.6")])
def test_fp8_for_a_gpu_without_fp8_is_refused_before_the_build(
    request_: BuildRequest, capabilities: tuple[str, ...], named: str
) -> None:
    request_.onnx.unlink()
    with pytest.raises(PrecisionError) as caught:
        RTX.build(replace(with_target(request_, compute_capability=capabilities), precision="fp8"))
    assert f"would build for compute capability {named}, which has no FP8" in str(caught.value)
    assert "expected: compute capability 8.9 (Ada) or later" in str(caught.value)
    assert caught.value.do is not None


def test_fp8_belongs_to_ada_and_later() -> None:
    trt.refuse_fp8("TensorRT", Target(engine="tensorrt-rtx", compute_capability=("8.9", "9.0", "10.0", "12.1")))


def test_options_that_the_flavour_has_not_are_refused(request_: BuildRequest) -> None:
    with pytest.raises(UserInputError, match="no dla_core, hardware_compatible, version_compatible"):
        RTX.build(with_target(request_, dla_core=0, hardware_compatible=True, version_compatible=True))
    with pytest.raises(UserInputError, match=r"does not know 9\.0"):
        RTX.build(with_target(request_, compute_capability=("8.6", "9.0")))
    with pytest.raises(UserInputError, match="named twice"):
        RTX.build(with_target(request_, compute_capability=("8.6", "8.6")))


def test_a_batch_range_that_the_graph_cannot_have(request_: BuildRequest) -> None:
    convolutions(request_.onnx, batch=2)
    with pytest.raises(ConfigError, match=r"fixed to 2 by the export, and batch asks for 1\.\.4"):
        RTX.build(request_)


def test_a_workspace_that_is_too_small_says_what_to_do() -> None:
    log = trt.Log(lines=[(1, "Tactic Selection: no tactics to implement the operation within workspace limit.")])
    error = trt.build_error("could not build", log)
    assert "workspace_mib" in str(error.do)


def test_a_truncated_model(request_: BuildRequest) -> None:
    request_.onnx.write_bytes(request_.onnx.read_bytes()[:2000])
    with pytest.raises((BuildError, ModelError)):
        RTX.build(request_)
    request_.onnx.write_bytes(b"hello world" * 50)
    with pytest.raises((BuildError, ModelError)):
        RTX.build(request_)
    request_.onnx.write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        RTX.build(request_)


def test_plugin_libraries_that_do_not_load(request_: BuildRequest, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="does not exist"):
        RTX.build(with_target(request_, plugins=(tmp_path / "absent.so",)))
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(UserInputError, match=r"file too short|invalid ELF header"):
        RTX.build(with_target(request_, plugins=(text,)))


PLUGIN = """
typedef struct { const char *kind; int major, minor; } Info;
static int language(void *self) { return 0; }
static Info info(void *self) { return (Info){"PLUGIN CREATOR_V3ONE", 1, 0}; }
static void destroy(void *self) {}
static void *create(void *self, const char *name, const void *fields, int phase) { return 0; }
static const void *fields(void *self) { static const long none[2]; return none; }
static const char *name(void *self) { return "Nothing"; }
static const char *version(void *self) { return "1"; }
static const char *space(void *self) { return ""; }
static void *table[] = {language, info, destroy, destroy, create, fields, name, version, space};
static void *creator[] = {table};
static void *creators[] = {creator};
void *getCreators(int *count) { *count = 1; return creators; }
void setLoggerFinder(void *finder) {}
"""
"""A plugin creator in TensorRT's binary interface: the table of IPluginCreatorV3One."""


def test_plugin_libraries_are_loaded_for_every_build(request_: BuildRequest, tmp_path: Path) -> None:
    library, empty = tmp_path / "plugin.so", tmp_path / "empty.so"
    for path, code in ((library, PLUGIN), (empty, "int nothing;")):
        path.with_suffix(".c").write_text(code)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, path.with_suffix(".c")], check=True)
    for _ in range(2):
        RTX.build(with_target(request_, plugins=(library,)))
    with pytest.raises(UserInputError, match="plugin creator of Nothing exists already"):
        RTX.build(with_target(request_, plugins=(library, library)))
    log = trt.Log()
    for _ in range(2):
        with pytest.raises(UserInputError, match="getCreators could not be loaded"):
            trt_network.parse(trt.load("tensorrt-rtx"), request_.onnx, log, plugins=(empty,))


def test_engines_that_do_not_open(request_: BuildRequest, tmp_path: Path) -> None:
    RTX.build(request_)
    foreign = tmp_path / "foreign.engine"
    data = request_.output.read_bytes()
    foreign.write_bytes(b"ftrt" + data[4:])
    with pytest.raises(EngineMismatch, match="it was opened with TensorRT-RTX"):
        RTX.open(foreign, OpenOptions(device="cuda:0"))


def test_misfits_name_every_difference(request_: BuildRequest) -> None:
    built = RTX.build(request_).identity
    other = built.model_copy(update={"version": "1.1.0.0", "platform": "aarch64-linux"})
    found = "; ".join(RTX.misfits(other, "cuda:0"))
    assert "TensorRT-RTX 1.1.0.0 built it" in found
    assert "it was built on aarch64-linux" in found
    assert RTX.misfits(built.model_copy(update={"engine": "tensorrt"}), "cuda:0") == [
        "TensorRT built it, it is to be opened with TensorRT-RTX"
    ]


def test_versions_that_say_the_same_fit_and_compatible_plans_fit_later_ones(request_: BuildRequest) -> None:
    built = RTX.build(request_).identity
    major = built.version.split(".")[0]

    def differs(**changes: object) -> bool:
        return any("built it" in found for found in RTX.misfits(built.model_copy(update=changes), "cuda:0"))

    assert not differs(version=".".join(built.version.split(".")[:3])), "the module may tell less than the plan"
    assert differs(version=f"{major}.0.0")
    assert not differs(version=f"{major}.0.0", version_compatible=True)
    assert differs(version=f"{major}.99.0", version_compatible=True), "a later version's plan does not load here"
    assert not differs(version="0.9.0", version_compatible=True), "NVIDIA: across major versions too"


def test_hardware_compatible_plans_fit_ampere_and_later(request_: BuildRequest) -> None:
    built = RTX.build(request_).identity
    flavour = trt.load("tensorrt-rtx")
    ada = cuda.Gpu(0, "Ada", "8.9", 1000)
    assert "built for compute capability 8.6" in engine._capability_misfits(flavour, built, ada)[0]
    anywhere = built.model_copy(update={"hardware_compatible": True})
    assert engine._capability_misfits(flavour, anywhere, ada) == []


def test_the_probe_says_what_it_builds_for() -> None:
    probe = RTX.probe()
    assert probe.available
    assert {"8.6", "8.9", "12.0"} <= set(probe.facts["builds_for"])


def test_tensorrt_is_absent_without_raising_or_says_what_it_is() -> None:
    probe = engines.get("tensorrt").probe()
    assert probe.available or probe.reason


# --- the timing cache, on TensorRT-RTX's own (its content is a no-op there, its format is real) --------------------


def bound(**changes: str) -> Identity:
    given = {"engine": "tensorrt", "version": "10.3.0", "device": "Orin", "compute_capability": "8.7", **changes}
    return Identity.model_validate(given)


def test_a_timing_cache_is_kept_and_bound(tmp_path: Path) -> None:
    flavour = trt.load("tensorrt-rtx")
    log = trt.Log()
    path = tmp_path / "timing.cache"
    keep = trt.logger(flavour.trt, log)
    builder = flavour.trt.Builder(keep)
    config = builder.create_builder_config()
    with trt.quiet():
        assert timing_cache.attach(flavour, config, path, bound(), log) is False
        timing_cache.keep(config, path, bound())
        assert path.stat().st_size > 0
        assert timing_cache.attach(flavour, builder.create_builder_config(), path, bound(), log) is True
        with pytest.raises(CacheError, match=r"version is '10\.3\.0', here it is '10\.16\.1'"):
            timing_cache.attach(flavour, config, path, bound(version="10.16.1"), log)
        with pytest.raises(CacheError, match="device is 'Orin', here it is 'Thor'"):
            timing_cache.attach(flavour, config, path, bound(device="Thor"), log)
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(CacheError, match="has changed since it was written"):
            timing_cache.attach(flavour, config, path, bound(), log)
        timing_cache.proof_path(path).unlink()
        with pytest.raises(CacheError, match="does not say where it came from"):
            timing_cache.attach(flavour, config, path, bound(), log)


def test_a_default_timing_cache_that_does_not_hold_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a build leaves it that was killed between its two writes; nobody named the file, so nobody must delete it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flavour = trt.load("tensorrt-rtx")
    log = trt.Log()
    keep = trt.logger(flavour.trt, log)
    builder = flavour.trt.Builder(keep)
    config = builder.create_builder_config()
    path = timing_cache.default_path(bound())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of a pair")
    with trt.quiet():
        assert timing_cache.attach(flavour, config, path, bound(), log) is False
        timing_cache.keep(config, path, bound())
        assert timing_cache.attach(flavour, builder.create_builder_config(), path, bound(), log) is True
    assert "measured anew" in log.warnings()[0]


def test_the_default_timing_cache_is_named_after_version_and_device() -> None:
    name = timing_cache.default_path(bound()).name
    assert name == "tensorrt-10.3.0-Orin-.cache"
    assert timing_cache.default_path(bound(version="10.4.0")).name != name


# --- TensorRT 10's implicit path: what can be said without TensorRT 10 ---------------------------------------------


def test_a_calibration_cache_is_served_under_the_header_of_this_version() -> None:
    text = "TRT-8601-EntropyCalibration2\nimages: 3c010a14\n"
    algorithm, data = implicit.cache_for("10.3.0.26", text, "c")
    assert algorithm == "EntropyCalibration2"
    assert data == b"TRT-100300-EntropyCalibration2\nimages: 3c010a14\n"
    assert implicit.cache_for("10.3.0", text.replace("Entropy", "MinMax").replace("2\n", "\n"), "c")[0].startswith(
        "Min"
    )
    with pytest.raises(CacheError, match="is not a TensorRT calibration cache"):
        implicit.cache_for("10.3.0", "images: 1\n", "c")


def test_the_calibrator_feeds_batches_in_the_order_of_the_names() -> None:
    feeds = [{"a": np.zeros(1), "b": np.zeros(1)}]
    serves = implicit.Calibration(None, iter(feeds), lambda batch: {"a": 16, "b": 32}, 1)
    assert serves.next_batch(["b", "a"]) == [32, 16]
    assert serves.next_batch(["b", "a"]) is None
    serves.finish()
    lacking = implicit.Calibration(None, iter(feeds), lambda batch: {}, 1)
    assert lacking.next_batch(["c"]) is None
    with pytest.raises(DataError, match="have no input 'c'"):
        lacking.finish()


def test_what_stopped_the_device_is_the_error_of_the_calibration() -> None:
    def full(feeds: object) -> dict[str, int]:
        raise DeviceError("out of device memory")

    serves = implicit.Calibration(None, iter([{"a": np.zeros(1)}]), full, 1)
    assert serves.next_batch(["a"]) is None
    with pytest.raises(DeviceError, match="out of device memory"):
        serves.finish()


def test_frames_are_gathered_to_the_shape_that_calibrates() -> None:
    frames = [{"x": np.full((1, 2), row, np.float32), "scale": np.float32(7).reshape(())} for row in range(5)]
    found = list(implicit.batched(iter(frames), {"x": (2, 2), "scale": ()}))
    assert [batch["x"][:, 0].tolist() for batch in found] == [[0, 1], [2, 3], [4, 0]]
    assert [float(batch["scale"]) for batch in found] == [7, 7, 7]
    (repeated,) = implicit.batched(iter(frames[:2]), {"x": (5, 2)})
    assert repeated["x"][:, 0].tolist() == [0, 1, 0, 1, 0]


def test_frames_that_would_make_tensorrt_read_past_their_end_are_refused() -> None:
    frame = {"x": np.zeros((1, 3), np.float32)}
    for frames, shapes, says in (
        ([], {"x": (1, 3)}, "there are no calibration frames"),
        ([frame], {"x": (1, 4)}, r"give the shape \(1, 3\)"),
        ([frame], {"y": (1, 3)}, "have no input 'y'"),
    ):
        with pytest.raises(DataError, match=says):
            list(implicit.batched(iter(frames), shapes))


def test_ctrl_c_stops_a_build_at_its_next_step() -> None:
    flavour = trt.load("tensorrt-rtx")

    def interrupted(done: int, total: int | None, what: str) -> None:
        if done:
            raise KeyboardInterrupt

    monitor = build.progress_monitor(flavour.trt, interrupted, threading.Event())
    monitor.phase_start("Building engine", None, 3)
    assert monitor.step_complete("Building engine", 0) is False


def test_ctrl_c_during_a_build_is_no_failed_build(request_: BuildRequest) -> None:
    def interrupted(done: int, total: int | None, what: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RTX.build(replace(request_, progress=interrupted))
    assert not request_.output.exists()


def test_a_precision_is_held_on_layers_of_floats_alone(tmp_path: Path) -> None:
    """Beside the convolution, ``keep`` must not touch what computes shapes: TensorRT 10 refuses FP16 for integers."""
    flavour = trt.load("tensorrt-rtx")
    network = trt_network.parse(flavour, reshaped(tmp_path / "model.onnx"), trt.Log()).network
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = {layer.type.name for layer in layers}
    assert {"CONVOLUTION", "SHAPE", "GATHER", "CONCATENATION", "SHUFFLE"} <= kinds
    held = {layer.type.name for layer in layers if implicit._has_precision(flavour.trt, layer)}
    assert {"CONVOLUTION", "SHUFFLE"} <= held
    assert not held & {"SHAPE", "GATHER", "CONCATENATION", "CONSTANT"}
