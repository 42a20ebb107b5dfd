"""`edgeship build` as the user types it: what is refused, and the command line of trtexec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from small_onnx import convolutions


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    return convolutions(tmp_path_factory.mktemp("build") / "model.onnx")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeship", "build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


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
    ],
)
def test_what_cannot_be_done_is_refused(net: Path, arguments: list[str], words: str) -> None:
    done = run(net, *arguments)
    assert done.returncode in (2, 4), done.stdout
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not net.with_suffix(".engine").exists()


def test_a_dry_run_prints_one_command_line(net: Path) -> None:
    done = run(net, "--engine", "tensorrt", "--via", "trtexec", "--opt-batch", 8, "--max-batch", 16, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "--optShapes=images:8x3x32x32 --maxShapes=images:16x3x32x32" in done.stdout


def test_an_fp32_graph_passed_off_as_fp16_is_refused_before_trtexec_starts(net: Path) -> None:
    done = run(net, "--engine", "tensorrt", "--via", "trtexec", "--precision", "fp16", "--dry-run")
    assert done.returncode == 4
    assert "asked for fp16, and model.onnx is not: every weight of it is FP32" in done.stderr
