"""A whole project with ``engine = "tensorrt-rtx"`` where no GPU is: built and audited, and never SHIP."""

from __future__ import annotations

import json
from pathlib import Path
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


SMALL = '''
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn
from model import FashionNet


class Small(nn.Module):
    """FashionNet whose features are small, and are divided by their length: FP16 flushes their squares to zero."""

    def __init__(self):
        super().__init__()
        net = FashionNet()
        net.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))
        self.features, self.classifier = net.features, net.classifier

    def forward(self, images):
        x = self.features(images).mean(dim=(2, 3)) * 1e-6
        x = x / (x * x).sum(dim=1, keepdim=True).sqrt()
        return self.classifier(10 * x)


def build():
    return Small()
'''


def test_fp16_that_collapses_is_rescued_by_the_nodes_that_it_needs_in_fp32(project: Any, edgeship: Any) -> None:
    (project.folder / "small.py").write_text(SMALL)
    project.change('source  = "model:build"\nweights = "weights.safetensors"', 'source = "small:build"')
    project.change("[target]\nbatch", TARGET)
    project.change('precisions = ["fp32", "int8"]', 'precisions = ["fp16"]')
    done = edgeship("ship", project.config, "--json", timeout=900)
    assert done.code == 3, done.err
    plain, kept = (_trial(project, name) for name in ("fp16", "fp16-keep"))
    assert plain["failure"]["kind"] == "QuantizeError"
    assert "edgeship quantize --precision fp16 --keep" in plain["failure"]["message"]
    keep = kept["candidate"]["keep"]
    assert plain["failure"]["rescue"] == keep
    assert 0 < len(keep) <= 6
    assert kept["failure"] is None
    assert kept["build"]["engine"]["size_bytes"] > 0
    (made,) = project.out.glob("stages/quantize-*fp16-keep*/result.json")
    assert min(json.loads(made.read_text())["output_snr_db"].values()) > 30
    assert "fp16-keep" in (project.out / "summary.md").read_text()


def _trial(project: Any, name: str) -> Any:
    """The trial of a candidate."""
    found = [json.loads(Path(path).read_text()) for path in project.out.glob("stages/*/trial.json")]
    (trial,) = [item for item in found if item["candidate"]["name"] == name]
    return trial
