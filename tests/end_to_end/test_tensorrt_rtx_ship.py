"""A whole project with ``engine = "tensorrt-rtx"`` where no GPU is: built and audited, and never SHIP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeship import engines

pytestmark = pytest.mark.slow
TARGET = """[target]
engine = "tensorrt-rtx"
device = "cuda:0"
compute_capability = ["8.6", "8.9"]
batch"""


def test_a_project_ends_inconclusive_with_the_reason(project: Any, edgeship: Any) -> None:
    project.change("[target]\nbatch", TARGET)
    project.change('precisions = ["fp32", "int8"]', 'precisions = ["fp32", "fp16", "int8"]')
    done = edgeship("ship", project.config, "--json", timeout=900)
    assert not engines.get("tensorrt-rtx").probe().devices
    assert done.code == 3, done.err
    result = json.loads((project.out / "result.json").read_text())
    text = json.dumps(result)
    assert "INCONCLUSIVE" in text
    assert '"SHIP"' not in text
    assert "built and audited, not run: no GPU here" in text
    trials = sorted(project.out.glob("stages/trial-*/trial.json"))
    assert len(trials) >= 3
    for path in trials:
        trial = json.loads(path.read_text())
        if trial["engine"] == "tensorrt-rtx":
            assert trial["build"]["engine"]["size_bytes"] > 0
            assert trial["audit"]["achieved"] >= 0.5
            assert trial["latency"] is None
