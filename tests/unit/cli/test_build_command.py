"""`edgeship build` as the user types it: what is refused, and the command line of trtexec."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from processes import Ended, edgeship

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from small_onnx import convolutions

from edgeship import engines


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return convolutions(tmp_path_factory.mktemp("build") / "model.onnx")


def run(*arguments: object) -> Ended:
    return edgeship("build", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--via", "trtexec"], "builds engine = \"tensorrt\", found 'tensorrt-rtx'"),
        (["--engine", "onnxruntime", "--via", "trtexec", "--dry-run"], "found 'onnxruntime'"),
        (["--dry-run"], "add --engine tensorrt --via trtexec"),
        (
            ["--engine", "tensorrt", "--via", "trtexec", "--compute-capability", "8.6", "--dry-run"],
            "compute_capability is TensorRT-RTX's",
        ),
        (
            ["--engine", "tensorrt", "--via", "trtexec", "--precision", "implicit", "--dry-run"],
            "from a cache alone, and none was given",
        ),
        (["--engine", "tensorrt", "--via", "trtexec", "--cache", "absent", "--precision", "fp16"], "trtexec"),
        (["--npz", "frames.npz"], "--npz and --calibrator are for TensorRT 10's own calibrator"),
        (["--precision", "implicit", "--calibrator", "minmax"], "--precision implicit with --npz, and no --cache"),
        (["--precision", "implicit", "--npz", "a.npz", "--cache", "b.cache"], "or only --cache with"),
        (["--precision", "implicit", "--npz", "absent.npz"], "absent.npz does not exist"),
        (["--precision", "fp8", "--compute-capability", "8.6"], "compute capability 8.6, which has no FP8"),
    ],
)
def test_what_cannot_be_done_is_refused(net: Path, arguments: list[str], words: str) -> None:
    done = run(net, *arguments)
    assert done.returncode in (2, 4), done.stdout
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not net.with_suffix(".engine").exists()


def test_frames_for_a_calibrator_that_this_tensorrt_has_not(net: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames.npz"
    np.savez(frames, images=np.zeros((2, 3, 32, 32), np.float32))
    arguments = [net, "--precision", "implicit", "--npz", frames]
    assert "there is no calibrator 'mean'" in run(*arguments, "--calibrator", "mean").stderr
    done = run(*arguments, "--calibrator", "minmax")
    assert done.returncode == 4
    assert 'precision "implicit" needs TensorRT 10; TensorRT-RTX' in " ".join(done.stderr.split())


@pytest.fixture
def outside(net: Path, tmp_path: Path) -> Path:
    """The network with its weights in a file beside it."""
    path = tmp_path / "outside" / "net.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(net), path, save_as_external_data=True, location="net.data", size_threshold=0)
    return path


def test_an_onnxruntime_engine_of_a_model_with_external_data_is_whole(outside: Path, tmp_path: Path) -> None:
    """Refused as it is, even beside its weights; what the message says then gives an engine that opens anywhere."""
    done = run(outside, "--engine", "onnxruntime")
    assert done.returncode == 4, done.stdout
    assert f"edgeship slim {outside} -o whole.onnx" in " ".join(done.stderr.split())
    assert sorted(path.name for path in outside.parent.iterdir()) == ["net.data", "net.onnx"]
    whole, engine = outside.with_name("whole.onnx"), tmp_path / "elsewhere" / "engine.onnx"
    assert edgeship("slim", outside, "-o", whole).returncode == 0
    assert run(whole, "--engine", "onnxruntime", "--out", engine).returncode == 0
    shutil.rmtree(outside.parent)
    assert edgeship("bench", engine, "--seconds", "0.1", "--warmup", "0.01").returncode == 0


def test_a_tensorrt_engine_of_a_model_with_external_data_is_whole(net: Path, outside: Path, tmp_path: Path) -> None:
    engines = [tmp_path / "whole.engine", tmp_path / "outside.engine"]
    for model, engine in zip((net, outside), engines, strict=True):
        done = run(model, "--compute-capability", "8.6", "--out", engine)
        assert done.returncode == 0, done.stderr
    sizes = [engine.stat().st_size for engine in engines]
    assert abs(sizes[0] - sizes[1]) < 2000, sizes
    outside.with_name("net.data").unlink()
    done = run(outside, "--compute-capability", "8.6")
    assert done.returncode == 4
    assert "Failed to import initializer: w0" in " ".join(done.stderr.split())
    assert "keep the external weights file beside the ONNX" in " ".join(done.stderr.split())
    assert not outside.with_suffix(".engine").exists()


def test_a_plugin_library_that_does_not_load(net: Path, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    for arguments in (("preflight", net), ("build", net, "--compute-capability", "8.6")):
        done = edgeship(*arguments, "--plugin", tmp_path / "absent.so")
        assert (done.returncode, done.stderr.count("error: ")) == (2, 1), done.stderr
        assert "absent.so does not exist" in " ".join(done.stderr.split())
        done = edgeship(*arguments, "--plugin", tmp_path / "text.so")
        assert (done.returncode, done.stderr.count("error: ")) == (2, 1), done.stderr
        assert "text.so does not load: " in " ".join(done.stderr.split())
        assert "ldd" in done.stderr
    assert not net.with_suffix(".engine").exists()


@pytest.mark.slow
def test_engines_that_cannot_be_measured_here(net: Path, tmp_path: Path) -> None:
    """A whole one where no CUDA driver is; a cut one; one behind foreign bytes, which the message's command mends."""
    engine = tmp_path / "net.engine"
    assert run(net, "--compute-capability", "8.6", "--out", engine).returncode == 0
    if not engines.get("tensorrt-rtx").probe().devices:
        done = edgeship("bench", engine)
        assert (done.returncode, done.stderr.count("error: ")) == (4, 1), done.stderr
        assert "it needs an NVIDIA GPU: no CUDA driver is installed here" in " ".join(done.stderr.split())
    data = engine.read_bytes()
    cut, front = tmp_path / "cut.engine", tmp_path / "front.engine"
    cut.write_bytes(data[: len(data) // 2])
    front.write_bytes(b'{"names": ["car"]}' + data)
    for damaged, words in ((cut, "is truncated"), (front, "has 18 foreign bytes in front of a TensorRT-RTX plan")):
        for name in ("bench", "inspect"):
            done = edgeship(name, damaged)
            assert (done.returncode, done.stderr.count("error: ")) == (2, 1), done.stderr
            assert words in " ".join(done.stderr.split())
    fix = done.stderr.partition("do: remove them: ")[2].replace("\n", " ").replace("raw.engine", str(tmp_path / "raw"))
    subprocess.run(["sh", "-c", fix], check=True)
    assert (tmp_path / "raw").read_bytes() == data


def test_a_dry_run_prints_one_command_line(net: Path) -> None:
    done = run(net, "--engine", "tensorrt", "--via", "trtexec", "--opt-batch", 8, "--max-batch", 16, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "--optShapes=images:8x3x32x32 --maxShapes=images:16x3x32x32" in done.stdout


def test_an_fp32_graph_passed_off_as_fp16_is_refused_before_trtexec_starts(net: Path) -> None:
    done = run(net, "--engine", "tensorrt", "--via", "trtexec", "--precision", "fp16", "--dry-run")
    assert done.returncode == 4
    assert "asked for fp16, and model.onnx is not: every weight of it is FP32" in done.stderr


def test_the_onnx_files_own_precision_is_the_default(tmp_path: Path) -> None:
    """What ``edgeship quantize`` wrote is built as what it is."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tiny_project import picture, save

    save(tmp_path / "model.onnx", batch=1)
    for number in range(8):
        picture(tmp_path / "calib" / f"{number}.png", number % 3, number)
    frames = ["--images", tmp_path / "calib", "-p", "fit=stretch", "-p", "std=255"]
    cache, int8 = tmp_path / "c.cache", tmp_path / "int8.onnx"
    assert edgeship("calibrate", tmp_path / "model.onnx", *frames, "-o", cache).returncode == 0  # a fixed batch of 1
    done = edgeship("quantize", tmp_path / "model.onnx", "--cache", cache, *frames[:-1], "std=255,255,255", "-o", int8)
    assert done.returncode == 0, done.stderr  # the same preprocessing, written differently
    built = edgeship("build", int8, "-e", "onnxruntime", "-o", tmp_path / "engine.onnx")
    assert built.returncode == 0, built.stderr
    assert "are int8-fp32" in built.stdout


def test_the_profile_of_a_dynamic_batch_is_told(net: Path, tmp_path: Path) -> None:
    plain = edgeship("build", net, "--compute-capability", "8.6", "-o", tmp_path / "a.engine")
    assert "this engine takes a batch of 1 and nothing else" in plain.stdout, plain.stderr
    given = edgeship("build", net, "--compute-capability", "8.6", "--max-batch", "8", "-o", tmp_path / "b.engine")
    assert "nothing else" not in given.stdout
    assert "takes [1, " in given.stdout
