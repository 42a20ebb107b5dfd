"""The how-to page on a task of one's own, as it stands there: text recognition, shipped."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image
from projects import ROOT, Edgeship
from runtime_figures import of_bundle

from small_project import BENCHMARK, value, write_model

PAGE = (ROOT / "docs" / "how-to" / "custom-task.md").read_text(encoding="utf-8")
ALPHABET = "-abc0123"
CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
color = "gray"
[calibration]
images = "val/"
count = 8
method = "minmax"
"""
    + BENCHMARK
)


def model(path: Path) -> None:
    """Eight cells side by side, each as bright as its symbol's place: ``logits`` [batch, 8, 8]."""
    levels = np.arange(8) * 30.0
    nodes = [
        helper.make_node("AveragePool", ["images"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["p", "w", "b"], ["c"], name="conv"),
        helper.make_node("Squeeze", ["c", "axes"], ["s"]),
        helper.make_node("Transpose", ["s"], ["logits"], perm=[0, 2, 1]),
    ]
    weights = {
        "w": (2 * levels / 900).reshape(8, 1, 1, 1).astype(np.float32),
        "b": (-(levels**2) / 900).astype(np.float32),
        "axes": np.array([2]),
    }
    write_model(path, nodes, [value("images", ["batch", 1, 8, 64])], [value("logits", ["batch", 8, 8])], weights)


@pytest.mark.slow
def test_the_page_ships_text_recognition(tmp_path: Path, edgeship: Edgeship, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    assert len(code.splitlines()) < 40
    settings = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    (tmp_path / "ocr.py").write_text(f"{code}\nprint('a task prints')\n")
    (tmp_path / "edgeship.toml").write_text(CONFIG + settings)
    model(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    rows = ["image,text"]
    (tmp_path / "val").mkdir()
    for number in range(160):
        text = "".join(random.choice(list("abc" if number % 2 else "0123"), 4))
        pixels = random.integers(0, 4, (8, 64))
        for place, symbol in enumerate(text):
            pixels[:, 16 * place : 16 * place + 8] += 30 * ALPHABET.index(symbol)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "val" / f"{number:03}.png")
        rows.append(f"{number:03}.png,{text}" if number else f"{number:03}.png,{text[:3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    done = edgeship("ship", tmp_path / "edgeship.toml", "--json", timeout=300)
    assert done.code == 0, done.out + done.err
    found = done.json
    metrics = found["reference"]["metrics"]
    assert metrics["cer"] == pytest.approx(1 / 639)
    assert metrics["exact"] == pytest.approx(159 / 160)
    assert found["labels"].startswith("labels of labels.csv: 160 labelled images")
    rules = {rule["name"]: rule for judged in found["decisions"][0]["judged"] for rule in judged["rules"]}
    assert {"max.cer", "max_drop.cer", "max_drop.exact", "critical.digits"} <= set(rules)
    monkeypatch.chdir(tmp_path)
    answered, promised = of_bundle(tmp_path / "edgeship.toml", tmp_path / "edgeship-out" / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
