"""Every benchmark that one CPU and the project's own packages carry, one after the other: ``make bench``.

    python benchmarks/run.py [NAME...]

Each records its run in results/NAME.json, whole: nothing of an earlier run stays. All together must end within half an
hour on two cores that nothing else uses. What needs packages of a peer, hosts of its own, a GPU or hours stands apart:
search.py, ssh.py, openvino_engine.py, faults.py, the other parts of fleet.py, int8_numbers.py, qat.py, zoo.py,
false_ship.py and gpu.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LIMIT_S = 1800
COMMANDS: dict[str, tuple[str, ...]] = {
    "ship": ("ship.py",),
    "timing": ("timing.py",),
    "loadgen": ("loadgen.py",),
    "runtime": ("runtime.py",),
    "calibration": ("calibration.py",),
    "evaluation": ("evaluation.py",),
    "scale": ("scale.py",),
    "power_bound": ("power_bound.py",),
    "fleet-overhead": ("fleet.py", "overhead"),
    "fleet-history": ("fleet.py", "history"),
}
"""Name of the recorded file → the script and its arguments."""


def main(names: list[str]) -> int:
    """Run what was named, or all; the exit status counts the scripts that failed or did not end in time."""
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        raise SystemExit(f"no benchmark {unknown[0]!r} here; there are {', '.join(COMMANDS)}")
    begin, failed, took = time.monotonic(), [], {}
    for name in names or COMMANDS:
        script, *arguments = COMMANDS[name]
        command = [sys.executable, str(HERE / script), *arguments, "--json", str(HERE / "results" / f"{name}.json")]
        print(f"== {name}", flush=True)
        start = time.monotonic()
        try:
            status = subprocess.run(command, check=False, timeout=max(1.0, LIMIT_S - (start - begin))).returncode
        except subprocess.TimeoutExpired:
            status = -1
        took[name] = time.monotonic() - start
        failed += [name] if status else []
        print(f"== {name}: exit {status}, {took[name]:.0f} s\n", flush=True)
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()))
    total = sum(took.values())
    print(f"all: {total:.0f} s of {LIMIT_S}, {'in time' if total <= LIMIT_S and not failed else 'MISSED'}")
    print(f"failed or not ended: {', '.join(failed)}" if failed else "then: make docs")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
