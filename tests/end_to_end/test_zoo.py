"""Ten small architectures of transformers through every step, to INT8 engines. The whole: benchmarks/zoo.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from examples_support import install_requirements

from processes import python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = {"slim", "preflight", "parity", "calibrate", "int8 tensorrt", "int8 onnxruntime"}


def test_ten_architectures_reach_int8_engines_with_a_dynamic_batch(tmp_path: Path) -> None:
    packages = install_requirements(Path(__file__).parent / "transformers_models" / "requirements.txt", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(packages)}
    done = python("-W", "ignore", ROOT / "benchmarks" / "zoo.py", "--quick", env=environment, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = {
        line.partition(":")[0]: json.loads(line[line.index("{") :])
        for line in done.stdout.splitlines()
        if line.startswith("transformers/")
    }
    assert len(found) == 10
    for name, said in found.items():
        assert said["export"] == "ok", name  # with a dynamic batch
        assert {step for step in STEPS if said[step] == "ok"} == STEPS, name
        assert said["ort int8"] > 0.9, name  # the share of the products in INT8
        assert said["rtx int8"] > 0.6, name  # ModelOpt leaves layers of few channels in float
