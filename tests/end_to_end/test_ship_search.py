"""``edgeship ship`` that searches by itself: one network that ends in a mixed engine, one in the honest fallback.

Both are FashionNet with its trained weights and a pair of convolutions in the middle that spreads the channels over
six orders of magnitude and takes them together again. In floating point that changes nothing. In INT8, whose ranges
hold one scale for a whole tensor, most channels vanish between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from projects import Edgeship, Project, make_project

from edgeship.config import Target
from edgeship.config_file import load
from edgeship.data.reference import importable
from edgeship.decide import loaded_trial
from edgeship.decide.sequence import Spending
from edgeship.pipeline import WORKFLOW
from edgeship.pipeline.graphs import PREVIEW
from edgeship.pipeline.search import preview_of
from edgeship.pipeline.stages import Run, execute
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE, on_this_cpu
from edgeship.results import Candidate

pytestmark = pytest.mark.slow

UNEVEN = '''
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn
from model import FashionNet


def diagonal(values):
    convolution = nn.Conv2d(len(values), len(values), 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.diag(values)[:, :, None, None])
    return convolution


def same(groups):
    """A convolution that changes nothing and costs what any other does."""
    convolution = nn.Conv2d(96, 96, 3, padding=1, groups=groups, bias=False)
    nn.init.dirac_(convolution.weight, groups=groups)
    return convolution


class Uneven(nn.Module):
    def __init__(self, between):
        super().__init__()
        net = FashionNet()
        net.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))
        scale = torch.logspace(-3, 3, 96)
        self.first, self.last, self.classifier = net.features[:2], net.features[2:], net.classifier
        self.up, self.down, self.between = diagonal(scale), diagonal(1 / scale), between

    def forward(self, images):
        x = self.between(self.down(self.up(self.first(images))))
        return self.classifier(self.last(x).mean(dim=(2, 3)))


def wide():
    """Where INT8 pays: most of the time goes into wide convolutions."""
    return Uneven(nn.Sequential(*(same(1) for _ in range(6))))


def narrow():
    """Where INT8 does not pay: most of the time goes into convolutions in groups of two channels."""
    return Uneven(nn.Sequential(*(same(48) for _ in range(12))))
'''


def uneven(folder: Path, which: str, gate: str, candidates: str) -> Project:
    """The small Fashion project around one of the networks."""
    project = make_project(folder, per_class=8)
    (folder / "uneven.py").write_text(UNEVEN)
    project.change('source  = "model:build"\nweights = "weights.safetensors"', f'source = "uneven:{which}"')
    project.change("latency_p99_ms = 1000.0\nmax_drop = { top1 = 0.5 }", gate)
    project.change('precisions = ["fp32", "int8"]', f'precisions = ["fp32", "int8"]\n{candidates}')
    project.change("min_s = 0.1", "min_s = 0.5")
    project.change("[target]\n", "[target]\nthreads = 1\n")
    return project


def median(result: Any, candidate: str) -> float:
    """A candidate's median, in milliseconds."""
    return next(item for item in result["trials"] if item["candidate"] == candidate)["latency_ms"]["p50"]


def guilty(project: Project) -> tuple[str, ...]:
    """The names of the two convolutions in the exported graph."""
    (model,) = (project.out / "stages").glob("slim-*/model.onnx")
    nodes = onnx.load(model, load_external_data=False).graph.node
    return tuple(node.name for node in nodes if {"up.weight", "down.weight"} & set(node.input))


@pytest.mark.alone
def test_int8_loses_and_fp32_is_too_slow_so_a_mixed_engine_is_found(tmp_path: Path, edgeship: Edgeship) -> None:
    gate = "speedup_over_fp32 = 1.05\nmax_drop = { top1 = 0.03 }"
    project = uneven(tmp_path / "project", "wide", gate, "")
    done = edgeship("ship", project.config, "--json", timeout=300)
    assert (done.code, done.json["verdict"]) == (0, "SHIP"), done.err
    found = done.json["search"]["default"]
    assert (found["answer"], found["chosen"]) == ("mixed", done.json["chosen"]), found["sentence"]
    assert done.json["chosen"].startswith("int8-keep")
    assert set(guilty(project)) <= set(found["keep"])
    judged = {item["candidate"]: item["outcome"] for item in done.json["decisions"][0]["judged"]}
    assert judged["int8"] == judged["fp32"] == "fail"
    assert median(done.json, done.json["chosen"]) < median(done.json, "fp32") / 1.05
    assert found["sentence"] in (project.out / "report.html").read_text().replace("&#39;", "'")
    assert (project.out / "bundle" / "manifest.json").is_file()


@pytest.mark.alone
def test_int8_is_slower_and_worse_so_fp32_ships_with_the_reason(tmp_path: Path, edgeship: Edgeship) -> None:
    gate = "latency_p99_ms = 1000.0\nmax_drop = { top1 = 0.03 }"
    project = uneven(tmp_path / "project", "narrow", gate, "search = true")
    done = edgeship("ship", project.config, "--json", timeout=300)
    assert (done.code, done.json["verdict"], done.json["chosen"]) == (0, "SHIP", "fp32"), done.err
    found = done.json["search"]["default"]
    assert (found["answer"], found["chosen"]) == ("high-precision", "fp32"), found["sentence"]
    # Plain INT8 is noise here and is refused at quantization; every plan that keeps enough of it in float is slower.
    assert found["sentence"].startswith("ship fp32: int8-keep"), found["sentence"]
    assert "is slower here (" in found["sentence"]
    assert "; it spends its time in " in found["sentence"]
    tried = [item for item in done.json["trials"] if item["candidate"].startswith("int8-keep") and item["latency_ms"]]
    assert min(item["latency_ms"]["p50"] for item in tried) > median(done.json, "fp32")


def test_a_preview_judges_the_answers_of_a_tensorrt_plan_without_timing_it(tmp_path: Path) -> None:
    project = uneven(tmp_path / "project", "wide", "latency_p99_ms = 1.0\nmax_drop = { top1 = 0.03 }\nrebuilds = 3", "")
    config = load(project.config)
    with importable(config.root):
        run = Run(config, project.out)
        execute(run, WORKFLOW[: WORKFLOW.index(REFERENCE) + 1])
        base = loaded_trial.load(run.result(REFERENCE).folders()[0])
        target = Target(engine="tensorrt", device="cuda:0", batch=config.target.batch)
        previewing, spending = TargetTrials(PREVIEW, on_this_cpu(target), preview=True), Spending()
        plain, _ = preview_of(run, previewing, base, Candidate(name="int8", precision="int8"), spending)
        kept = Candidate(name="int8-keep2", precision="int8", keep=guilty(project))
        mixed, seen = preview_of(run, previewing, base, kept, spending)
    assert (plain.outcome, mixed.outcome) == ("fail", "pass")
    assert seen.trial.latency is None and seen.outputs
    # Plain INT8 is noise here: its graph is refused before there is anything to try.
    assert [stage.name for stage in run.stages if "preview" in stage.name] == [
        "quantize:preview:int8-keep2",
        "trial:preview:int8-keep2",
    ]
