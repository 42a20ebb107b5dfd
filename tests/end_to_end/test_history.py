"""Runs over time through the command line: appended, shown, compared with the last release, drawn in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import Edgeship

from edgeship.decide.finished_run import open_run
from tiny_project import project


@pytest.mark.slow
def test_runs_are_remembered_and_the_last_release_is_the_baseline(tmp_path: Path, edgeship: Edgeship) -> None:
    config = project(tmp_path, each=8)
    text = config.read_text().replace('["fp32", "int8"]', '["fp32"]')
    config.write_text(text)
    history = tmp_path / "edgeship-history.sqlite"
    config.write_text(text + 'baseline = "last"\n')
    refused = edgeship("ship", config)
    assert refused.code == 2
    assert "gate.baseline = \"last\": no run of 'model' in the history" in refused.err

    config.write_text(text.replace("[model]", '[model]\nversion = "1"'))
    assert edgeship("ship", config).code == 0
    assert edgeship("ship", config).code == 0, "the same run again"
    config.write_text(text.replace("[model]", '[model]\nversion = "2"') + 'baseline = "last"\n')
    assert edgeship("ship", config, "--out", tmp_path / "second", "--fresh").code == 0
    entries = json.loads(edgeship("history", "show", "--file", history, "--json").out)["entries"]
    assert [(item["number"], item["version"], item["verdict"]) for item in entries] == [
        (1, "1", "SHIP"),
        (2, "2", "SHIP"),
    ]
    rules = {rule["name"]: rule["outcome"] for rule in entries[1]["rules"]}
    assert rules["baseline.top1"] == "pass"
    assert [item.version for item in open_run(tmp_path / "second").earlier] == ["1"]
    assert "Over the last 2 runs" in (tmp_path / "second" / "report.html").read_text()

    shown = edgeship("history", "show", "last", "--file", history)
    assert "#2 model 2" in shown.out and "baseline.top1" in shown.out
    assert "version: 1 → 2" in edgeship("history", "diff", "1", "--file", history).out
    assert edgeship("history", "export", tmp_path / "h.csv", "--file", history).code == 0
    again = edgeship("gate", tmp_path / "second", "--json")
    assert json.loads(again.out)["verdict"] == "SHIP"
    answer = edgeship("compare", tmp_path / "edgeship-out", tmp_path / "second", "--verdict", "--slower", "1000")
    assert answer.code == 0, answer.out

    config.write_text(config.read_text().replace('"last"', '"history:7"'))
    missing = edgeship("ship", config)
    assert (missing.code, "has no entry '7'" in missing.err) == (2, True)
    history.write_bytes(b"not a history" * 100)
    config.write_text(text)
    damaged = edgeship("ship", config)
    assert (damaged.code, "is not a history, or damaged" in damaged.err) == (2, True)
