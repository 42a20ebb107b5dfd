"""trtexec: the flags of 10 and 11, its help, its errors, its JSON.

Two tests at the end start a shell script that is called trtexec: NVIDIA publishes no wheel of the tool, and it needs a
GPU. They hold what is between the processes alone: that it is found on the PATH, gets our command line, and that the
file it leaves is read. What the real tool does with that command line is held by nothing here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_onnx import convolutions, quantized

from edgeship.config import Batch, Benchmark, ShapeRange, Target
from edgeship.engines import BuildRequest
from edgeship.engines.trt import trtexec
from edgeship.engines.trt.trtexec import Measure, Trtexec
from edgeship.errors import (
    ArtifactError,
    BuildError,
    CacheError,
    ConfigError,
    DataError,
    PrecisionError,
    TargetError,
)
from edgeship.results import Quantiles

TEN, ELEVEN = Trtexec("trtexec", 10, "10.3.0"), Trtexec("trtexec", 11, "11.4.0")
HELP_10 = """&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] # trtexec --help
  --fp16   Enable fp16   --int8   --calib=<file>  --stronglyTyped  --useCudaGraph  --useSpinWait
  --noDataTransfers   --useSpinWait, --precisionConstraints=spec
"""
HELP_11 = """&&&& RUNNING TensorRT.trtexec [TensorRT v110400] [b1] # trtexec --help
  --noCudaGraph  Disable CUDA graphs   --includeDataTransfers   Include transfers
"""


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    model = convolutions(tmp_path / "model.onnx")
    target = Target(engine="tensorrt", device="cuda:1", batch=Batch(min=1, opt=8, max=16), workspace_mib=2048)
    return BuildRequest(model, tmp_path / "x.engine", "int8", target, log=tmp_path / "x.log")


def test_the_profile_and_the_options(request_: BuildRequest) -> None:
    target = request_.target.model_copy(
        update={"dla_core": 0, "gpu_fallback": True, "optimization_level": 4, "timing_cache": Path("t.cache"),
                "version_compatible": True, "hardware_compatible": True, "plugins": (Path("libp.so"),)}
    )  # fmt: skip
    command = trtexec.build_command(replace(request_, precision="fp32", target=target), TEN)
    assert command[:3] == ["trtexec", f"--onnx={request_.onnx}", f"--saveEngine={request_.output}"]
    for flag in (
        "--minShapes=images:1x3x32x32", "--optShapes=images:8x3x32x32", "--maxShapes=images:16x3x32x32",
        "--memPoolSize=workspace:2048M", "--device=1", "--noTF32", "--useDLACore=0", "--allowGPUFallback",
        "--builderOptimizationLevel=4", "--timingCacheFile=t.cache", "--versionCompatible",
        "--hardwareCompatibilityLevel=ampere+", "--staticPlugins=libp.so", "--skipInference",
    ):  # fmt: skip
        assert flag in command


def test_fixed_graphs_take_no_shapes_and_ranges_of_the_users_own_are_kept(request_: BuildRequest) -> None:
    given = ShapeRange(min=(1, 3, 32, 32), opt=(2, 3, 32, 32), max=(3, 3, 32, 32))
    request_ = replace(request_, precision="fp32")
    own = replace(request_, target=request_.target.model_copy(update={"shapes": {"images": given}}))
    assert "--maxShapes=images:3x3x32x32" in trtexec.build_command(own, TEN)
    convolutions(request_.onnx, batch=2)
    assert not [flag for flag in trtexec.build_command(request_, TEN) if "Shapes" in flag]


def test_precision_lives_in_the_graph_on_both(request_: BuildRequest) -> None:
    request = replace(request_, precision="fp32")
    assert "--stronglyTyped" in trtexec.build_command(request, TEN)
    newer = trtexec.build_command(request, ELEVEN)
    assert not {"--fp16", "--int8", "--stronglyTyped"} & set(newer)


def test_implicit_calibrates_from_our_cache_on_10_and_is_refused_on_11(request_: BuildRequest) -> None:
    implicit = replace(request_, precision="implicit", cache=Path("c.cache"), keep=("conv1", "op:MatMul", "conv[23]"))
    command = trtexec.build_command(implicit, TEN)
    for flag in (
        "--fp16",
        "--int8",
        "--calib=c.cache",
        "--precisionConstraints=obey",
        "--layerPrecisions=conv1:fp16,fc:fp16,conv2:fp16,conv3:fp16",
    ):
        assert flag in command
    with pytest.raises(PrecisionError, match="has no --int8 and no --calib"):
        trtexec.build_command(implicit, ELEVEN)
    with pytest.raises(ConfigError, match=r"keep: '/head/\*' matches no node"):
        trtexec.build_command(replace(implicit, keep=("conv1", "/head/*")), TEN)


def test_without_a_cache_nothing_is_calibrated_on_random_data(request_: BuildRequest) -> None:
    with pytest.raises(DataError, match="from a cache alone, and none was given"):
        trtexec.build_command(replace(request_, precision="implicit", frames=iter([])), TEN)


def test_the_cache_is_served_under_the_header_of_the_version_that_reads_it(request_: BuildRequest) -> None:
    cache = request_.onnx.with_name("calib.cache")
    cache.write_text("TRT-100000-EntropyCalibration2\nimages: 3c010a14\n")
    implicit = replace(request_, precision="implicit", cache=cache)
    served = trtexec.with_own_cache(implicit, TEN)
    assert served.cache == request_.output.with_name("x.engine.calib")
    assert served.cache.read_text() == "TRT-100300-EntropyCalibration2\nimages: 3c010a14\n"
    assert f"--calib={served.cache}" in trtexec.build_command(served, TEN)
    assert cache.read_text().startswith("TRT-100000-"), "the user's file stays as it is"
    cache.write_text("TRT-100000-MinMaxCalibration\nimages: 3c010a14\n")
    with pytest.raises(CacheError, match="trtexec's calibrator takes EntropyCalibration2 alone"):
        trtexec.with_own_cache(implicit, TEN)
    assert trtexec.with_own_cache(request_, TEN) is request_


def test_a_graph_that_is_not_in_the_asked_precision_is_refused_before_the_build(request_: BuildRequest) -> None:
    with pytest.raises(PrecisionError, match=r"asked for int8, and model\.onnx is not: it has no DequantizeLinear"):
        trtexec.build_command(request_, TEN)
    with pytest.raises(PrecisionError, match=r"asked for fp16, .* every weight of it is FP32"):
        trtexec.build_command(replace(request_, precision="fp16"), TEN)
    convolutions(request_.onnx, half=True)
    assert "--stronglyTyped" in trtexec.build_command(replace(request_, precision="fp16"), TEN)
    made = quantized(convolutions(request_.onnx), request_.onnx.with_name("q.onnx"))
    assert "--stronglyTyped" in trtexec.build_command(replace(request_, onnx=made), TEN)


def test_the_conditions_of_a_measurement_are_stated(tmp_path: Path) -> None:
    measure = Measure({"images": (8, 3, 32, 32)}, Benchmark(warmup_s=0.5, min_s=3, min_samples=1000))
    older = trtexec.bench_command(Path("x.engine"), measure, Path("t.json"), TEN)
    assert {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"} <= set(older)
    assert "--shapes=images:8x3x32x32" in older
    assert "--warmUp=500" in older
    assert "--duration=3" in older
    plain = Measure({}, Benchmark(), cuda_graph=False, transfers=True)
    newer = trtexec.bench_command(Path("x.engine"), plain, Path("t.json"), ELEVEN)
    assert {"--noCudaGraph", "--includeDataTransfers"} <= set(newer)
    ten = trtexec.bench_command(Path("x.engine"), plain, Path("t.json"), TEN)
    assert not {"--useCudaGraph", "--noCudaGraph", "--includeDataTransfers", "--noDataTransfers"} & set(ten)


def test_only_flags_that_its_own_help_names_are_used() -> None:
    ten, eleven = trtexec.parse_help("t", HELP_10), trtexec.parse_help("t", HELP_11)
    assert (ten.major, ten.version) == (10, "10.3.0")
    assert (eleven.major, eleven.version) == (11, "11.4.0")
    assert ten.knows("--calib")
    assert not eleven.knows("--calib")
    measure = Measure({}, Benchmark())
    assert "--useCudaGraph" in trtexec.bench_command(Path("x"), measure, Path("t"), ten)
    assert "--useCudaGraph" not in trtexec.bench_command(Path("x"), measure, Path("t"), eleven)
    assert trtexec.parse_help("t", "[TensorRT v8601]").version == "8.6.1"
    with pytest.raises(TargetError, match="does not say its version"):
        trtexec.parse_help("t", "hello")


def test_the_exported_times() -> None:
    rows = [
        {"startEnqMs": 0.1, "endEnqMs": 0.2, "h2dMs": 0.5, "computeMs": 1.25, "d2hMs": 0.25, "latencyMs": 2.0},
        {"startEnqMs": 2.1, "endEnqMs": 2.2, "h2dMs": 0.5, "computeMs": 1.5, "d2hMs": 0.25, "latencyMs": 2.25},
    ]
    found = trtexec.read_times(json.dumps(rows))
    assert found.device == [1.25, 1.5]
    assert found.wall == [2.0, 2.25]
    assert found.upload == [0.5, 0.5]
    for wrong in ("[]", "{}", "no JSON", '[{"computeMs": "fast"}]'):
        with pytest.raises(ArtifactError):
            trtexec.read_times(wrong)


def test_a_pasted_command_survives_the_shell() -> None:
    assert trtexec.shown(["trtexec", "--onnx=my model.onnx"]) == "trtexec '--onnx=my model.onnx'"


def test_without_trtexec_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="trtexec is not installed here"):
        trtexec.find()


def test_a_process_that_fails_is_one_message_with_a_remedy() -> None:
    said = "print('[E] Error[10]: Could not find any implementation for node conv0'); raise SystemExit(1)"
    with pytest.raises(BuildError, match=r"trtexec ended with 1: .*conv0") as caught:
        trtexec.run([sys.executable, "-c", said], 60)
    assert "workspace_mib" in str(caught.value.do)
    with pytest.raises(BuildError, match="did not end within 0 s"):
        trtexec.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    with pytest.raises(TargetError, match="does not start"):
        trtexec.run(["/no/such/trtexec"], 60)


def script(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an executable called trtexec first in PATH."""
    place = folder / "bin" / "trtexec"
    place.parent.mkdir()
    place.write_text(f"#!/bin/sh\nif [ \"$1\" = --help ]; then echo '{HELP_10}'; exit 0; fi\n{body}\n")
    place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place.parent}:/usr/bin:/bin")


def test_a_build_reads_the_version_from_the_plan(
    request_: BuildRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "ftrt\\000\\000\\000\\000" + "\\000" * 16 + "\\012\\003\\000\\032" + "\\000" * 40
    take = 'for a in "$@"; do case $a in --saveEngine=*) out=${a#--saveEngine=};; esac; done'
    script(tmp_path, f"{take}\nprintf '{head}' > \"$out\"; echo done", monkeypatch)
    done = trtexec.build(replace(request_, precision="fp32"))
    assert done.identity.version == "10.3.0.26"
    assert done.profiles["images"] == ((1, 3, 32, 32), (8, 3, 32, 32), (16, 3, 32, 32))
    assert "--saveEngine=" in str(done.command)
    assert done.log is not None


def test_a_measurement_reads_the_exported_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"ftrt" + bytes(20) + bytes((10, 3, 0, 26)) + bytes(40))
    rows = json.dumps(
        [{"h2dMs": 0.0, "computeMs": 1.0 + index / 100, "d2hMs": 0.0, "latencyMs": 1.5} for index in range(9)]
    )
    take = 'for a in "$@"; do case $a in --exportTimes=*) out=${a#--exportTimes=};; esac; done'
    script(tmp_path, f"{take}\necho '{rows}' > \"$out\"", monkeypatch)

    def quantiles(values: Sequence[float]) -> Quantiles:
        ordered = sorted(values)
        middle = ordered[len(ordered) // 2]
        return Quantiles(
            p50=middle, p90=ordered[-1], p99=ordered[-1], mean=middle, min=ordered[0], samples=len(ordered),
            interval=(ordered[0], ordered[-1]),
        )  # fmt: skip

    measure = Measure({"images": (4, 3, 32, 32)}, Benchmark(min_samples=5), batch=4)
    found = trtexec.benchmark(engine, measure, quantiles, tmp_path)
    assert found.source == "trtexec"
    assert found.batch == 4
    assert found.device_ms is not None
    assert found.device_ms.p50 == pytest.approx(1.04)
    assert found.settled
    assert found.samples is not None
