"""Doctor: what it finds here, and every pair that does not fit."""

from __future__ import annotations

from pathlib import Path

from edgeship.doctor import examine, jetson, l4t_version, misfits, power_mode
from edgeship.engines import ENGINES, Probe
from edgeship.engines.cuda import Cuda, Gpu, cuda_version, device_index

ORIN = Cuda((Gpu(0, "Orin", "8.7", 30000),), driver="12.6", runtime="12.6")
NOTHING = Cuda(reason="no CUDA driver is installed here")


def test_this_machine() -> None:
    found = examine()
    assert {"edgeship", "python", "platform", "CUDA driver", "trtexec"} <= set(found.facts)
    assert [state.name for state in found.engines] == list(ENGINES)


def test_a_fitting_orin_has_nothing_to_say() -> None:
    probes = (Probe("tensorrt", True, "10.3.0"),)
    assert misfits({"onnxruntime": "1.20"}, probes, ORIN, "10.3.0") == []


def test_every_misfit_is_named_with_what_to_do() -> None:
    both = misfits({"onnxruntime": "1.32", "onnxruntime-gpu": "1.31"}, (), NOTHING)
    assert "hides the other" in both[0]
    newer = Cuda(ORIN.gpus, driver="12.6", runtime="13.4")
    assert "cuda-bindings==12.*" in misfits({}, (), newer)[0]
    assert "needs a driver for CUDA 13" in misfits({"torch": "2.11.0+cu130"}, (), ORIN)[0]
    assert "CPU build beside a GPU" in misfits({"torch": "2.13.0+cpu"}, (), ORIN)[0]
    assert "trtexec is of TensorRT 8.6.1" in misfits({}, (Probe("tensorrt", True, "10.3.0"),), ORIN, "8.6.1")[0]
    assert "builds only on a GPU" in misfits({}, (Probe("tensorrt", False, "10.3.0"),), NOTHING)[0]
    rtx = Probe("tensorrt-rtx", True, "1.7.1", facts={"builds_for": ["8.6", "8.9"]})
    hopper = Cuda((Gpu(0, "NVIDIA H200", "9.0", 143000),), driver="13.0", runtime="13.0")
    assert (
        "does not support NVIDIA H200 (compute capability 9.0; it supports 8.6, 8.9)" in misfits({}, (rtx,), hopper)[0]
    )


def test_a_jetson_is_read_from_its_own_files(tmp_path: Path) -> None:
    release, board = tmp_path / "nv_tegra_release", tmp_path / "model"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    board.write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    found = jetson(release, board)
    assert found["L4T"] == "36.4.3"
    assert found["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert jetson(tmp_path / "absent", board) == {}
    assert power_mode("NV Power Mode: MAXN\n0\n") == "MAXN"
    assert power_mode("") == ""
    assert l4t_version("something else") == "something else"


def test_small_readings() -> None:
    assert cuda_version(12060) == "12.6"
    assert [device_index(text) for text in ("cuda", "cuda:1", "cpu")] == [0, 1, 0]
