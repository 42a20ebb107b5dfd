"""`edgeship bench` as the user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

FAST = ["--warmup", "0.01", "--seconds", "0.02", "--max-seconds", "0.5", "--precision", "0.9"]


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "net.onnx")
    return folder / "net.onnx"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeship", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_json_holds_a_latency_for_each_batch(net: Path, tmp_path: Path) -> None:
    done = run(net, "--batches", "2,1", *FAST, "--out", tmp_path, "--plot", tmp_path / "plot.svg", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [latency["batch"] for latency in found["latencies"]] == [1, 2]
    assert found["latencies"][0]["device_ms"] is None
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    assert (tmp_path / "latency.npz").is_file()
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


def test_text_says_which_clock_and_which_inputs(net: Path) -> None:
    done = run(net, *FAST)
    assert done.returncode == 0, done.stderr
    assert "p50 ms (wall)" in done.stdout
    assert "seeded noise: fine for time, never for accuracy" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batches", "0"], "is no list of batch sizes"),
        (["--batches", "two"], "is no list of batch sizes"),
        (["--via", "polygraphy"], "--via api|trtexec"),
        (["--via", "trtexec"], "measures TensorRT engines"),
        (["--baseline", "torch"], "--config edgeship.toml"),
        (["--shape", "x=1xtwo"], "is no shape"),
        (["--frames", __file__], "is no .npz of plain arrays"),
    ],
)
def test_wrong_options_are_one_sentence_and_exit_2(net: Path, arguments: list[str], words: str) -> None:
    done = run(net, *arguments, *FAST)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_absent_or_foreign_file_is_refused(net: Path, tmp_path: Path) -> None:
    assert "no engine file at" in run(tmp_path / "none.engine").stderr
    foreign = tmp_path / "net.engine"
    foreign.write_bytes(b"PK\x03\x04 not a plan" * 50)
    done = run(foreign)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_pytorch_beside_the_engine(net: Path, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.ReLU()\n")
    (tmp_path / "edgeship.toml").write_text(
        '[model]\nsource = "made:build"\n[model.inputs.x]\nshape = ["batch", 3, 8, 8]\n'
        '[candidates]\nprecisions = ["fp32"]\n'
    )
    done = run(net, "--baseline", "torch", "--config", tmp_path / "edgeship.toml", *FAST, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["baseline"]
    assert [row["name"] for row in rows] == ["eager", "channels-last", "compile"]
    assert rows[0]["latency"]["wall_ms"]["p50"] > 0
