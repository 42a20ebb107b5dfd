"""A part of onnx's own node tests: every graph passes or is refused. The whole: benchmarks/onnx_suite.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from processes import python

SUITE = Path(__file__).parents[3] / "benchmarks" / "onnx_suite.py"


@pytest.mark.slow
def test_no_graph_of_onnxs_own_suite_breaks_edgeship() -> None:
    done = python(SUITE, "--every", "90")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| slim " in done.stdout
