"""`edgeship bench` as the user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeship.engines.inspect import sidecar
from edgeship.results import Artifact, Build, Identity, TensorInfo, write
from processes import Ended, edgeship

FAST = ["--warmup", "0.01", "--seconds", "0.02", "--max-seconds", "0.5", "--precision", "0.9"]


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "relu")], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "net.onnx")
    return folder / "net.onnx"


def run(*arguments: object) -> Ended:
    return edgeship("bench", *arguments)


def test_json_holds_a_latency_for_each_batch(net: Path, tmp_path: Path) -> None:
    done = run(net, "--batches", "2,1", *FAST, "--out", tmp_path, "--plot", tmp_path / "plot.svg", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [latency["batch"] for latency in found["latencies"]] == [1, 2]
    assert found["latencies"][0]["device_ms"] is None
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    for latency in found["latencies"]:
        with np.load(tmp_path / latency["samples"]["path"]) as samples:
            assert len(samples["wall_ms"]) == latency["wall_ms"]["samples"]
    assert found["latencies"][1]["samples"]["path"] == "batch-2/latency.npz"
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


def test_text_says_which_clock_and_which_inputs(net: Path) -> None:
    done = run(net, *FAST)
    assert done.returncode == 0, done.stderr
    assert "p50 ms (wall)" in done.stdout
    assert "seeded noise: fine for time, never for accuracy" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batches", "0"], "is not a list of batch sizes"),
        (["--batches", "two"], "is not a list of batch sizes"),
        (["--via", "polygraphy"], "--via api|trtexec"),
        (["--via", "trtexec"], "measures TensorRT engines"),
        (["--baseline", "torch"], "--config edgeship.toml"),
        (["--shape", "x=1xtwo"], "is not a shape"),
        (["--shape", "x=1x3x8x8", "--shape", "x=1x3x9x9"], "names 'x' twice"),
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


def plan(path: Path, axes: list[int | str], profiles: dict[str, object]) -> Path:
    """The header of a TensorRT 10.3 plan, and the record that `edgeship build` leaves beside one."""
    path.write_bytes(b"ftrt" + bytes(20) + bytes((10, 3, 0, 26)) + bytes(40))
    tensor = TensorInfo(name="x", shape=tuple(axes), dtype="float32")
    bound = Identity(engine="tensorrt", version="10.3.0.26", device="Orin", compute_capability="8.7")
    built = Build(
        engine=Artifact.of(path, path.parent), identity=bound, seconds=1.0, inputs=(tensor,), outputs=(tensor,),
        profiles=profiles,
    )  # fmt: skip
    write(built, sidecar(path))
    return path


def test_trtexec_is_asked_for_batches_that_the_engine_has(tmp_path: Path) -> None:
    fixed = plan(tmp_path / "fixed.engine", [4, 3, 8, 8], {})
    done = run(fixed, "--via", "trtexec", "--batches", "1,8", *FAST)
    assert done.returncode == 2
    assert "the engine's batch is fixed at 4" in done.stderr
    other = plan(tmp_path / "other.engine", ["batch", 3, "height", 8], {})
    done = run(other, "--via", "trtexec", "--batches", "1,8", *FAST)
    assert done.returncode == 2
    assert "--shape x=1x3x480x640" in done.stderr
    sidecar(other).unlink()
    done = run(other, "--via", "trtexec", "--batches", "1,8", *FAST)
    assert done.returncode == 2
    assert "are not known here, so no batch can be asked of it" in done.stderr


def test_an_engine_is_not_opened_against_the_record_beside_it(tmp_path: Path) -> None:
    engine = plan(tmp_path / "x.engine", ["batch", 3, 8, 8], {})
    done = run(engine, *FAST)
    assert done.returncode == 4
    assert "10.3.0.26 built it" in done.stderr
    engine.write_bytes(engine.read_bytes() + b"x")
    done = run(engine, *FAST)
    assert "is not the file that x.engine.json describes: its hash differs" in done.stderr
