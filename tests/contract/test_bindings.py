"""Every name of TensorRT's that edgeship touches, held to NVIDIA's own bindings of both generations."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from bindings import VERSIONS, ask
from uses import Use, all_uses, sources, uses_in

pytestmark = pytest.mark.slow

ONLY_RTX = {
    "ComputeCapability",
    "EngineValidity",
    "EngineValidity.INVALID",
    "EngineInvalidityDiagnostics",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "Runtime.get_engine_validity",
}
"""Reached behind ``flavour.rtx`` or a check for the attribute."""
ONLY_10 = {
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "IBuilderConfig.int8_calibrator",
    "IBuilderConfig.set_calibration_profile",
    "IInt8Calibrator",
    "IInt8EntropyCalibrator2",
    "IInt8MinMaxCalibrator",
    "ILayer.precision",
}
"""The implicit path, which :func:`refuse_unless_possible` keeps to TensorRT 10."""
MUST_BE_SEEN = {
    "Builder.build_serialized_network", "OnnxParser.parse", "OnnxParser.supports_model_v2",
    "Runtime.deserialize_cuda_engine",
    "IBuilderConfig.set_memory_pool_limit", "IExecutionContext.execute_async_v3", "ICudaEngine.num_io_tensors",
    "INetworkDefinition.num_inputs", "IOptimizationProfile.set_shape", "ITensor.dtype", "ILayer.type",
    "IBuilderConfig.set_compute_capability", "ITimingCache.serialize", "EngineInspector.get_engine_information",
}  # fmt: skip
"""If the walk does not see these, it sees too little."""


def allowed(uses: list[Use], without: set[str]) -> list[dict[str, object]]:
    return [asdict(use) for use in uses if use.path not in without]


def test_the_walk_sees_what_we_use() -> None:
    paths = {use.path for use in all_uses()}
    assert MUST_BE_SEEN - paths == set()
    assert len(paths) > 90


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_and_call_exists(version: str) -> None:
    without = ONLY_RTX if VERSIONS[version] == 10 else ONLY_RTX | ONLY_10
    answer = ask(version, "lookup.py", allowed(all_uses(), without))
    assert answer == {"version": version, "problems": []}


def test_every_name_and_call_exists_in_tensorrt_rtx() -> None:
    answer = ask("rtx", "lookup.py", allowed(all_uses(), ONLY_10))
    assert answer["problems"] == []


def test_what_is_called_gone_in_11_is_gone_there_and_on_rtx() -> None:
    gone = [asdict(Use(path, "here")) for path in sorted(ONLY_10)]
    for version in ("11.4.0.106", "rtx"):
        assert len(ask(version, "lookup.py", gone)["problems"]) == len(ONLY_10), version


def test_modelopts_autotune_asks_for_a_flag_that_11_no_longer_has() -> None:
    flag = [asdict(Use("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "modelopt"))]
    missing = {version: len(ask(version, "lookup.py", flag)["problems"]) for version in VERSIONS}
    assert missing == {"10.16.1.11": 0, "11.4.0.106": 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_called_rtx_only_is_nowhere_else(version: str) -> None:
    only = [asdict(Use(path, "here")) for path in sorted(ONLY_RTX)]
    assert len(ask(version, "lookup.py", only)["problems"]) == len(ONLY_RTX)


PLANTED = (
    ("config.set_memory_pool_limit(", "config.set_memory_pool_limits(", "set_memory_pool_limits"),
    ("trt.BuilderFlag.VERSION_COMPATIBLE", "trt.BuilderFlag.VERSION_COMPATIBEL", "VERSION_COMPATIBEL"),
    (
        "build_serialized_network(parsed.network, config)",
        "build_serialized_network(parsed.network)",
        "is called with 1",
    ),
    ("config.progress_monitor =", "config.progress_monitors =", "progress_monitors"),
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("right", "wrong", "named"), PLANTED)
def test_a_planted_mistake_is_found(version: str, right: str, wrong: str, named: str) -> None:
    source = sources()["build.py"]
    assert right in source
    uses = uses_in(source.replace(right, wrong), "build.py")
    problems = ask(version, "lookup.py", allowed(uses, ONLY_RTX | ONLY_10))["problems"]
    assert len(problems) == 1
    assert named in problems[0]


@pytest.mark.parametrize("version", [*VERSIONS, "rtx"])
def test_our_subclasses_construct_and_answer(version: str) -> None:
    answer = ask(version, "subclasses.py")
    assert answer["logger"]
    assert answer["log"] == [[1, "something failed"]]
    assert answer["monitor"]
    assert answer["go on"] == [True, True]
    assert answer["progress"] == [[0, 2], [1, 2], [2, 2]]
    assert answer["allocator"]
    assert answer["too large"] == 0
    assert answer["shapes"] == {"boxes": [3, 4]}
    assert {"float32", "float16", "int8", "bfloat16"} <= set(answer["dtypes"])


def test_both_calibrators_construct_on_10() -> None:
    entropy, minmax = ask("10.16.1.11", "subclasses.py")["calibrators"]
    assert entropy["algorithm"].endswith("ENTROPY_CALIBRATION_2")
    assert minmax["algorithm"].endswith("MINMAX_CALIBRATION")
    for found in (entropy, minmax):
        assert found["is"]
        assert found["batch"] == 2
        assert found["batches"] == [[4096], [4096], None]
        assert found["copied"] == [[0, 1], [2, 0]], "the last batch is filled up with the first frames"
        assert found["cache"] == "TRT-1-X\nx: 3c010a14\n"
        assert found["written"] == "kept"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_without_a_gpu_is_one_sentence(version: str) -> None:
    said = ask(version, "subclasses.py")["without a GPU"]
    assert said.startswith(f"DeviceError: TensorRT {version} builds on the GPU that will run the engine, and there is")


def test_11_and_rtx_have_no_calibrators() -> None:
    for version in ("11.4.0.106", "rtx"):
        assert "calibrators" not in ask(version, "subclasses.py")


def test_the_implicit_path_exists_on_10_alone() -> None:
    ten = ask("10.16.1.11", "subclasses.py")["implicit"]
    assert ten["with frames"] == ""
    assert ten["alone"].startswith("DataError: INT8 calibration has neither a calibration cache nor frames")
    eleven = ask("11.4.0.106", "subclasses.py")["implicit"]
    assert eleven["with frames"].startswith(
        'PrecisionError: precision "implicit" needs TensorRT 10; TensorRT 11.4.0.106'
    )
    rtx = ask("rtx", "subclasses.py")["implicit"]
    assert "TensorRT-RTX" in rtx["with frames"]
