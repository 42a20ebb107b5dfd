"""The whole path on the demo: time, what a rerun costs, what lies outside the unavoidable work, and help.

    python benchmarks/ship.py [--out benchmarks/results/ship.json]

The unavoidable work is measured by itself in the same run: torch.export and the ONNX export, and the same number of
forward passes through onnxruntime (calibration frames once; evaluation images once for each candidate), and the time
that benchmarking is asked to take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FASHION = ROOT / "examples" / "fashion"


def command(*arguments: object) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Seconds and result of one edgeship command."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "edgeship", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return time.perf_counter() - start, done


def demo(folder: Path) -> dict[str, Any]:
    """A first run, a rerun, and the stages of the first."""
    first, done = command("ship", FASHION / "edgeship.toml", "--out", folder)
    result = json.loads((folder / "result.json").read_text())
    again, _ = command("ship", FASHION / "edgeship.toml", "--out", folder)
    helps = [command("--help")[0] for _ in range(5)]
    trials = {
        trial["candidate"]: json.loads((folder / trial["folder"] / "trial.json").read_text())
        for trial in result["trials"]
    }
    return {
        "exit_code": done.returncode,
        "verdict": result["verdict"],
        "first_s": first,
        "rerun_s": again,
        "help_s": statistics.median(helps),
        "stages": {stage["name"]: round(stage["seconds"], 2) for stage in result["stages"]},
        "benchmark_s": sum(trial["latency"]["seconds"] + trial["latency"]["warmup_s"] for trial in trials.values()),
        "latency_p50_ms": {name: trial["latency"]["wall_ms"]["p50"] for name, trial in trials.items()},
        "models": {name: str(folder / trial["folder"]) for trial in result["trials"] for name in [trial["candidate"]]},
    }


def unavoidable(found: dict[str, Any]) -> dict[str, float]:
    """The parts that any path has to pay, each in a process of its own."""
    code = """
import json, sys, time
start = time.perf_counter()
sys.path.insert(0, sys.argv[1])
import torch, warnings, logging
logging.disable(logging.CRITICAL); warnings.simplefilter("ignore")
from model import build
batch = torch.export.Dim("batch", min=1)
torch.onnx.export(build().eval(), (torch.randn(2, 1, 28, 28),), dynamo=True, opset_version=18,
                  dynamic_shapes=({0: batch},), verbose=False)
export = time.perf_counter() - start
start = time.perf_counter()
from onnxruntime.quantization import quantize_static
quantize = time.perf_counter() - start
import numpy as np, onnxruntime as ort
seconds = {}
for name, path, images in json.loads(sys.argv[2]):
    session = ort.InferenceSession(path)
    feeds = {session.get_inputs()[0].name: np.random.default_rng(0).standard_normal((8, 1, 28, 28)).astype("float32")}
    start = time.perf_counter()
    for _ in range(images // 8):
        session.run(None, feeds)
    seconds[name] = time.perf_counter() - start
print(json.dumps({"export_s": export, "quantizer_import_s": quantize, **seconds}))
"""
    models = found["models"]
    passes = [
        ["fp32 evaluation and calibration", models["fp32"] + "/model.onnx", 2500 + 512],
        ["int8 evaluation", models["int8"] + "/model.onnx", 2500],
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, str(FASHION), json.dumps(passes)], capture_output=True, text=True, check=True
    )
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts | {"measuring latency, as asked for": found["benchmark_s"]}


def main() -> int:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = demo(Path(place) / "out")
        parts = unavoidable(found)
        shutil.rmtree(place, ignore_errors=True)
    floor = sum(parts.values())
    found["unavoidable_s"] = {name: round(seconds, 3) for name, seconds in parts.items()}
    found["outside_share"] = 1 - floor / found["first_s"]
    found.pop("models")
    found["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    print(f"first run {found['first_s']:.1f} s, rerun {found['rerun_s']:.2f} s, --help {found['help_s']:.2f} s")
    print(f"unavoidable {floor:.1f} s: " + ", ".join(f"{name} {value:.2f}" for name, value in parts.items()))
    print(f"outside the unavoidable work: {found['outside_share']:.0%} of the first run")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
