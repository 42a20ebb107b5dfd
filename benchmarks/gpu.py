"""Every GPU figure of edgeship on one machine, both sides in one run: `make gpu-bench`.

    python benchmarks/gpu.py --out results.json            # all sections
    python benchmarks/gpu.py --out results.json --only resnet50 torch

Each section runs in a process of its own with a time limit; results.json is rewritten after each, so that a section
that fails or hangs costs its own figures alone. `benchmarks/gpu_table.py` turns the file into the docs' page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_sections
import gpu_whole
import harness

LIMITS_S = {
    "models": 150,
    "resnet50": 120,
    "hand": 120,
    "torch": 240,
    "events": 40,
    "overhead": 60,
    "energy": 120,
    "sweep": 90,
    "soak": 150,
    "parity": 60,
    "calibrate": 150,
    "ship": 240,
    "examples": 500,
}
AROUND = ("parity", "calibrate", "ship", "examples")
"""Sections of ``gpu_whole``; the others are of ``gpu_sections``."""


def main() -> int:
    """Run the sections and return 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--work", type=Path, default=Path("build/gpu-bench"), help="models and trials go here")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS_S), default=list(LIMITS_S))
    parser.add_argument("--section", choices=list(LIMITS_S), help=argparse.SUPPRESS)
    parser.add_argument("--limit-s", type=float, default=570.0, help="stop starting sections after this long")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.section:
        module = gpu_whole if given.section in AROUND else gpu_sections
        print(json.dumps(getattr(module, given.section)(given.work.resolve())))
        return 0
    return _all(given)


def _all(given: argparse.Namespace) -> int:
    begin = time.perf_counter()
    results: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    results["machine"] = harness.facts_with_gpu()
    results.setdefault("sections", {})
    failed = []
    for name, limit_s in LIMITS_S.items():
        if name not in given.only:
            continue
        left = given.limit_s - (time.perf_counter() - begin)
        if left < 20:
            failed.append(name)
            results["sections"][name] = {"error": "not started: out of time"}
            continue
        found = _section(name, given, min(limit_s, left))
        results["sections"][name] = found
        failed += [name] if "error" in found else []
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {'FAILED' if 'error' in found else 'done'} in {found['seconds']:.1f} s", flush=True)
    print(f"{len(failed)} sections failed: {', '.join(failed)}" if failed else "all sections done")
    return 1 if failed else 0


def _section(name: str, given: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--section", name, "--work", str(given.work)]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as late:
        said = late.stderr.decode(errors="replace") if isinstance(late.stderr, bytes) else str(late.stderr or "")
        print(said[-3000:], flush=True)
        return {"error": f"over its limit of {limit_s:.0f} s", "seconds": time.perf_counter() - begin}
    seconds = time.perf_counter() - begin
    if name == "examples":
        print(done.stderr[-6000:], flush=True)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        found = {}
    if done.returncode != 0 or not isinstance(found, dict) or not found:
        print(f"--- {name}\n{done.stdout[-2000:]}\n{done.stderr[-5000:]}", flush=True)
        lines = done.stderr.strip().splitlines() or ["no output"]
        return {"error": lines[-1][:500], "seconds": seconds}
    return {**found, "seconds": seconds}


if __name__ == "__main__":
    raise SystemExit(main())
