"""A project whose gate judges whole frames, their rate and the start ends in a verdict about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import Edgeship

from tiny_project import project

RULES = "frame_p99_ms = 5000.0\nfps = 40.0\nload_ms = 60000.0\n"


@pytest.mark.slow
def test_frames_rate_and_start_are_judged_and_shown(tmp_path: Path, edgeship: Edgeship) -> None:
    config = project(tmp_path)
    config.write_text(config.read_text().replace('["fp32", "int8"]', '["fp32"]') + RULES)
    done = edgeship("ship", config, timeout=600)
    result = json.loads((tmp_path / "edgeship-out" / "result.json").read_text())
    judged = result["decisions"][0]["judged"][0]["rules"]
    rules = {rule["name"]: rule for rule in judged}
    assert rules["frame_p99_ms"]["outcome"] == "pass", done.err
    assert rules["load_ms"]["outcome"] == "pass"
    assert "at 40 a second missed their deadline of 25 ms" in rules["fps"]["reason"]
    page = (tmp_path / "edgeship-out" / "report.html").read_text()
    assert "Decode the image" in page and "Cold start" in page
