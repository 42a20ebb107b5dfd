"""``ship`` of a model whose preprocessing is wrong: no verdict, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import Edgeship, make_project

pytestmark = pytest.mark.slow


def test_a_wrong_range_of_pixels_is_doubted_and_diagnosed(tmp_path: Path, edgeship: Edgeship) -> None:
    project = make_project(tmp_path / "project", per_class=8)
    project.change("mean  = [73.0]", "scale = 0.00392\nmean  = [73.0]")
    project.change("confidence = 0\naccept_low_confidence = true", "")
    project.change('precisions = ["fp32", "int8"]', 'precisions = ["fp32"]')
    done = edgeship("ship", project.config, "--json", timeout=300)
    assert (done.code, done.json["verdict"]) == (3, "INCONCLUSIVE"), done.err
    assert "not shown to be better than chance" in done.json["sentence"]
    assert "Diagnosis: with scale = " in done.json["sentence"]
