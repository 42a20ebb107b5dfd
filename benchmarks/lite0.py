"""EfficientNet-Lite0 on the CPU: INT8 and FP32 through edgeship against PyTorch eager, in one run.

    python benchmarks/lite0.py --packages DIR [--json benchmarks/results/lite0.json]

DIR holds the packages of examples/efficientnet_lite0/requirements.txt (``pip install --no-deps --target DIR -r …``).
The engines' medians are those of the example's own trials, each in a process of its own, because the threads of one
onnxruntime session spin beside another's; PyTorch is timed at once after them. Batch 1, all in one run.
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

import numpy as np

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "efficientnet_lite0"
CALLS = 100


def main() -> int:
    """Ship the example, time the engines and PyTorch in turns, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "example"
        shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("edgeship-out"))
        path = os.pathsep.join([str(given.packages.resolve()), str(place)])
        command = [sys.executable, "-m", "edgeship", "ship", str(place / "edgeship.toml"), "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=place, env=os.environ | {"PYTHONPATH": path}
        )
        result = json.loads(done.stdout)
        sys.path[:0] = path.split(os.pathsep)
        medians = {item["candidate"]: item["latency_ms"]["p50"] for item in result["trials"]}
        medians["pytorch"] = pytorch()
    figures = {
        "verdict": result["verdict"],
        "chosen": result["chosen"],
        "top1": {item["candidate"]: item["metrics"]["top1"] for item in result["trials"]},
        "median_ms": medians,
        "fp32_over_int8": medians["fp32"] / medians["int8"],
        "pytorch_over_int8": medians["pytorch"] / medians["int8"],
        "pytorch_over_fp32": medians["pytorch"] / medians["fp32"],
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def pytorch() -> float:
    """Median milliseconds of one image by PyTorch eager."""
    import torch
    from model import build

    module, tensor = build().eval(), torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 224, 224)))
    tensor = tensor.float()
    taken = []
    with torch.no_grad():
        for _ in range(CALLS):
            start = time.perf_counter()
            module(tensor)
            taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken[CALLS // 5 :])


if __name__ == "__main__":
    raise SystemExit(main())
