"""Text lines and embeddings through ship: corpus metrics, the gate, the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from projects import Edgeship
from runtime_figures import of_bundle

from small_project import BENCHMARK

CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
std = [255.0]
[calibration]
images = "val/"
count = 8
method = "minmax"
[candidates]
precisions = ["fp32", "int8"]
[evaluation]
images = "val/"
labels = "labels.csv"
EVALUATION
"""
    + BENCHMARK
    + """[gate]
GATE
"""
)
TEXT = ('task = "text"\nclasses = "dictionary.txt"', "max_drop = { cer = 0.1, exact = 0.1 }")
VECTORS = ('task = "embeddings"', "max_drop = { recall1 = 0.1 }")
STEPS = 6


def network(path: Path, task: str) -> None:
    """Columns of grey → a score for each of four greys (text), or the columns themselves (embeddings)."""
    nodes = [helper.make_node("Conv", ["images", "w"], ["columns"], kernel_shape=[4, 4], strides=[4, 4])]
    given = [numpy_helper.from_array(np.full((1, 3, 4, 4), 1 / 48, np.float32), "w")]
    if task == "text":
        slope = np.array([0.0, 1, 2, 3], np.float32).reshape(4, 1, 1, 1)
        given += [numpy_helper.from_array(2 * slope, "slope"), numpy_helper.from_array(-(slope**2).ravel() / 3, "less")]
        nodes.append(helper.make_node("Conv", ["columns", "slope", "less"], ["scores"]))
        given.append(numpy_helper.from_array(np.array([0, 4, STEPS]), "shape"))
        nodes.append(helper.make_node("Reshape", ["scores", "shape"], ["rows"]))
        nodes.append(helper.make_node("Transpose", ["rows"], ["out"], perm=[0, 2, 1]))
        shape = ["batch", STEPS, 4]
    else:
        given.append(numpy_helper.from_array(np.array([0, STEPS]), "shape"))
        nodes.append(helper.make_node("Reshape", ["columns", "shape"], ["out"]))
        shape = ["batch", STEPS]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4 * STEPS])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "lines", [images], [out], given)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text", "embeddings"])
def test_lines_ship(tmp_path: Path, edgeship: Edgeship, task: str) -> None:
    network(tmp_path / "model.onnx", task)
    (tmp_path / "val").mkdir()
    random = np.random.default_rng(0)
    kinds = random.integers(0, 4, (10, STEPS))
    rows = ["image,label"]
    for number in range(80):
        greys = random.integers(0, 4, STEPS) if task == "text" else kinds[number % 10]
        pixels = np.clip(greys * 85 + random.integers(-8, 9, STEPS), 0, 255).astype(np.uint8)
        wide = np.repeat(np.repeat(pixels[None], 4, axis=1), 4, axis=0)
        Image.fromarray(np.stack([wide] * 3, axis=2)).save(tmp_path / "val" / f"{number:03}.png")
        seen = [grey for place, grey in enumerate(greys) if place == 0 or grey != greys[place - 1]]
        read = "".join("-abc"[grey] for grey in seen if grey)
        rows.append(f"{number:03}.png,{(read or 'a') if task == 'text' else f'kind{number % 10}'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "dictionary.txt").write_text("a\nb\nc\n")
    evaluation, gate = TEXT if task == "text" else VECTORS
    (tmp_path / "edgeship.toml").write_text(CONFIG.replace("EVALUATION", evaluation).replace("GATE", gate))
    done = edgeship("ship", tmp_path / "edgeship.toml", "--json", timeout=300)
    assert done.code == 0, done.out + done.err
    found = done.json["reference"]["metrics"]
    if task == "text":
        assert found == {"cer": pytest.approx(0.0), "exact": pytest.approx(1.0)}
    else:
        assert found["recall1"] == pytest.approx(1.0)
    answered, promised = of_bundle(tmp_path / "edgeship.toml", tmp_path / "edgeship-out" / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
    ran = edgeship("run", tmp_path / "edgeship-out" / "bundle", tmp_path / "val" / "000.png", "--json")
    assert ran.code == 0, ran.err
    frame = ran.json["frames"][0]
    if task == "text":
        assert frame["text"] == rows[1].partition(",")[2]
        (tmp_path / "labels.csv").write_text("\n".join([*rows[:3], "002.png,"]))
        refused = edgeship("check", tmp_path / "edgeship.toml")
        assert refused.code == 2
        assert "labels.csv: 002.png has the text ''" in " ".join(refused.err.split())
    else:
        assert len(frame["vector"]) == STEPS
