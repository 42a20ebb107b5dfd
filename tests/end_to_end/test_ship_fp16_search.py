"""``edgeship ship`` on a network that FP16 converts at 70 dB, and whose answers it loses all the same.

Its scores stand on a common offset of 300, where FP16 has steps of a quarter, and differ by less.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

OFFSET = """
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn
from model import FashionNet


class Offset(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = FashionNet()
        self.net.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))

    def forward(self, images):
        return self.net(images) * 0.02 + 300


def build():
    return Offset()
"""


def test_fp16_that_loses_answers_gets_the_nodes_it_needs_in_fp32(project: Any, edgeship: Any) -> None:
    (project.folder / "offset.py").write_text(OFFSET)
    project.change('source  = "model:build"\nweights = "weights.safetensors"', 'source = "offset:build"')
    project.change("[target]\n", '[target]\nengine = "tensorrt-rtx"\ndevice = "cuda:0"\ncompute_capability = ["8.6"]\n')
    project.change('precisions = ["fp32", "int8"]', 'precisions = ["fp16"]\nsearch = true\nmax_trials = 4')
    project.change("max_drop = { top1 = 0.5 }", "max_drop = { top1 = 0.05 }")
    done = edgeship("ship", project.config, "--json", timeout=300)
    assert done.code == 3, done.err  # built, and not run: no GPU here
    found = done.json["search"]["default"]
    plain, *plans = found["attempts"]
    assert (plain["candidate"], plain["where"], plain["accuracy"]) == ("fp16", "preview", "fail")
    assert plain["drop"]["top1"] > 0.2
    previews = [item for item in plans if item["where"] == "preview"]
    assert previews[0]["accuracy"] == "pass"
    assert "keeps the accuracy in its preview" in found["sentence"]

    (built,) = [item for item in plans if item["where"] == "target"]
    name = built["candidate"]
    assert name.startswith("fp16-keep")
    assert built["keep"] == found["keep"] == min((i["keep"] for i in previews if i["accuracy"] == "pass"), key=len)
    assert name in {item["candidate"] for item in done.json["trials"]}
    (made,) = project.out.glob(f"stages/quantize-tensorrt-{name}-*/model.onnx")
    (slim,) = project.out.glob("stages/slim-*/model.onnx")
    (frames,) = project.out.glob("stages/frames-*/*.npz")
    options = [text for node in found["keep"] for text in ("--keep", node)]
    again = edgeship("quantize", slim, "--npz", frames, "--precision", "fp16", *options, "-o", "again.onnx", "--json")
    assert again.code == 0, again.err
    assert set(again.json["kept"]) == set(found["keep"])
    assert (project.folder.parent / "again.onnx").read_bytes() == made.read_bytes()
