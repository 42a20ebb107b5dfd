"""``candidates.repair`` through ``ship``: what helps is a candidate, what does not is dropped with its numbers."""

from __future__ import annotations

import pytest
from projects import Edgeship, Project


@pytest.mark.slow
def test_repairs_are_candidates_beside_plain_int8(project: Project, edgeship: Edgeship) -> None:
    text = project.config.read_text().replace('method = "minmax"', 'method = "percentile"\npercentile = 99')
    asked = 'precisions = ["fp32", "int8"]\nrepair = ["bias-correct", "smooth"]'
    project.config.write_text(text.replace('precisions = ["fp32", "int8"]', asked))
    done = edgeship("ship", project.config)
    assert done.code == 0, done.err
    result = project.result()
    trials = {item["candidate"]: item for item in result["trials"]}
    assert list(trials) == ["fp32", "int8", "int8-bias-correct", "int8-smooth"]
    assert trials["int8-bias-correct"]["outcome"] == "pass"
    assert trials["int8-bias-correct"]["audit"]["achieved"] == trials["int8"]["audit"]["achieved"]
    assert trials["int8-smooth"]["outcome"] == "fail"
    assert "smooth did not make INT8 better" in trials["int8-smooth"]["reasons"][0]
    stages = [item["name"] for item in result["stages"]]
    assert stages.count("repair:onnxruntime:bias-correct") == stages.count("repair:onnxruntime:smooth") == 1
    page = (project.out / "report.html").read_text()
    assert "Repaired INT8" in page and "no layer normalization is read by" in page

    project.change('"bias-correct", "smooth"]', '"bias-correct"]\nsearch = true\nmax_trials = 3')
    project.change("max_drop = { top1 = 0.5 }", "min = { top1 = 0.999 }")  # none reaches it: every plan is tried
    done = edgeship("ship", project.config)
    result = project.result()
    found = result["search"]["default"]
    assert [item["candidate"] for item in found["attempts"]] == ["int8-bias-correct", "int8-bias-correct-keep4"]
    plan = next(item for item in result["trials"] if item["candidate"] == "int8-bias-correct-keep4")
    assert len(plan["keep"]) >= 4
    names = {item["name"]: item["cached"] for item in result["stages"]}
    assert names["repair:onnxruntime:bias-correct"] and not names["rank:onnxruntime:bias-correct"]
