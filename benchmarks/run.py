"""Every benchmark that runs on a CPU, one after the other: ``make bench``. Each records its run in results/."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    ("ship.py",),
    ("timing.py",),
    ("calibration.py",),
    ("evaluation.py",),
    ("runtime.py",),
    ("openvino_engine.py",),
    ("false_ship.py",),
)
"""Those that need packages of a peer or hosts of their own stand apart: search.py, ssh.py, fleet.py, faults.py and
gpu.py."""


def main() -> int:
    """Run what is there; the exit status counts the scripts that failed."""
    failed = 0
    for script, *arguments in COMMANDS:
        name = " ".join([script, *arguments])
        start = time.perf_counter()
        print(f"== {name}", flush=True)
        result = HERE / "results" / script.replace(".py", ".json")
        done = subprocess.run([sys.executable, str(HERE / script), *arguments, "--json", str(result)], check=False)
        failed += done.returncode != 0
        print(f"== {name}: exit {done.returncode}, {time.perf_counter() - start:.0f} s\n", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
