"""Depth through ship: less is better, by a ceiling and by the drop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from projects import Edgeship
from runtime_figures import of_bundle

from small_project import BENCHMARK, value, write_model, write_picture

CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
[calibration]
images = "val/"
count = 8
method = "minmax"
[evaluation]
task = "depth"
images = "val/"
labels = "maps/"
"""
    + BENCHMARK
    + """[gate]
max = { abs_rel = 0.2 }
max_drop = { abs_rel = 0.1, delta1 = 0.1 }
"""
)


@pytest.mark.slow
def test_depth_ships(tmp_path: Path, edgeship: Edgeship) -> None:
    nodes = [
        helper.make_node("AveragePool", ["images"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["p", "w"], ["depth"], name="conv"),
    ]
    images, depth = value("images", ["batch", 3, 16, 16]), value("depth", ["batch", 1, 4, 4])
    write_model(tmp_path / "model.onnx", nodes, [images], [depth], {"w": np.full((1, 3, 1, 1), 0.1, np.float32)})
    random = np.random.default_rng(0)
    (tmp_path / "maps").mkdir()
    for number in range(80):
        coarse = random.integers(40, 220, (4, 4))
        grey = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1).astype(np.uint8)
        write_picture(tmp_path / "val" / f"{number:03}.png", np.stack([grey] * 3, axis=2))
        np.save(tmp_path / "maps" / f"{number:03}.npy", grey * 0.3 * 1.1)
    (tmp_path / "edgeship.toml").write_text(CONFIG)
    done = edgeship("ship", tmp_path / "edgeship.toml", "--json", timeout=300)
    assert done.code == 0, done.out + done.err
    found = done.json
    assert found["reference"]["metrics"]["abs_rel"] == pytest.approx(1 - 1 / 1.1, abs=1e-4)
    assert found["reference"]["metrics"]["delta1"] == 1.0
    answered, promised = of_bundle(tmp_path / "edgeship.toml", tmp_path / "edgeship-out" / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
    rules = {rule["name"]: rule for judged in found["decisions"][0]["judged"] for rule in judged["rules"]}
    assert {"max.abs_rel", "max_drop.abs_rel", "max_drop.delta1"} <= set(rules)
    (changes,) = (tmp_path / "edgeship-out").glob("stages/changes*/result.json")
    shown = json.loads(changes.read_text())["images"]
    assert 0 < len(shown) <= 12
    assert all(image["measured"] and image["reference"]["depth"] and image["answer"]["error"] for image in shown)
    assert "dark is near; grey was not measured" in (tmp_path / "edgeship-out" / "report.html").read_text()
    changed = (tmp_path / "edgeship.toml").read_text().replace("max = { abs_rel = 0.2 }", "max = { abs_rel = 0.05 }")
    (tmp_path / "edgeship.toml").write_text(changed)
    assert edgeship("ship", tmp_path / "edgeship.toml", "--json", timeout=300).code == 1
    (tmp_path / "edgeship.toml").write_text(changed.replace("max = {", "min = {"))
    wrong = edgeship("ship", tmp_path / "edgeship.toml", timeout=300)
    assert (wrong.code, "gate.min.abs_rel: less is better" in wrong.err) == (2, True), wrong.err
