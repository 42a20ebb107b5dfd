"""INT8 has the same numbers on processors with and without VNNI: the other kind is shown by qemu-user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_support import patches, tiny

from edgeship.engines import processor
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.graph import load_onnx
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.qdq_onnxruntime import OrtForm, ort_graph

ROLES = ("residual", "wide residual", "concat", "depthwise", "transposed", "gemm", "shared", "relu6", "attention")
CHILD = Path(__file__).with_name("other_processor.py")
QEMU = shutil.which("qemu-x86_64") or "/usr/bin/qemu-x86_64"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small graph of each role, in float and in INT8, and real frames."""
    folder = tmp_path_factory.mktemp("roles")
    for role in ROLES:
        name = role.replace(" ", "-")
        path = folder / f"{name}.onnx"
        onnx.save(tiny(role), path)
        frames = patches(role, 4)
        calibrate(path, Batches(tuple(frames)), folder / f"{name}.cache", CalibrateOptions(method="minmax"))
        known = calibration_cache.load(
            folder / f"{name}.cache", calibration_cache.Expected(calibration_cache.graph_hash(load_onnx(path)))
        )
        reference = infer(load_onnx(path))
        onnx.save(ort_graph(reference, known, {}), folder / f"{name}.int8.onnx")
        onnx.save(ort_graph(reference, known, {}, OrtForm(reduced_range=True)), folder / f"{name}.reduced.onnx")
        np.save(folder / f"{name}.npy", np.concatenate([feeds["x"] for _, feeds in frames]))
    return folder


def run_on(processor_name: str | None, folder: Path, scratch: Path, only: str = "*") -> dict[str, Any]:
    """What a processor gives: this one, or the one that qemu plays."""
    before = [QEMU, "-cpu", processor_name] if processor_name else []
    scratch.mkdir()
    done = subprocess.run(
        [*before, sys.executable, str(CHILD), str(folder), str(scratch), only],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_every_processor_gives_the_same_int8(graphs: Path, tmp_path: Path) -> None:
    here = run_on(None, graphs, tmp_path / "here")
    avx2 = run_on("Haswell", graphs, tmp_path / "avx2")
    sse4 = run_on("Nehalem-v1", graphs, tmp_path / "sse4", "gemm")
    assert here["saturates"] is processor.saturates()
    assert avx2["saturates"] is True and "avx2" in avx2["flags"]
    assert sse4["saturates"] is False and "avx2" not in sse4["flags"]
    for told in (here, avx2, sse4):
        for role, ways in told["found"].items():
            for way in ways.keys() - {"native", "reduced", "reduced native"}:
                exact = here["found"][role]["exact"]
                assert ways[way] == pytest.approx(exact, abs=0.1), (role, way, told["flags"])
            seven_bits = here["found"][role]["reduced"]
            assert ways["reduced"] == pytest.approx(seven_bits, abs=0.1), (role, told["flags"])
            assert ways["reduced native"] == pytest.approx(seven_bits, abs=0.1), (role, told["flags"])
    lost = {role: of["exact"] - of["native"] for role, of in avx2["found"].items()}
    assert max(lost.values()) > 6, "onnxruntime's own setting saturates no more: exact arithmetic may be left out"
    same = {role: abs(of["exact"] - of["native"]) for role, of in sse4["found"].items()}
    assert max(same.values()) < 0.1
