"""What the vehicle's runtime costs over the bare onnxruntime session, how fast it imports, and whether memory stays
flat.

    python benchmarks/runtime.py [--frames 100000] [--json benchmarks/results/runtime.json]

All sides run in one process on one session and the same arrays, each round in another random order, so that a busy
machine, cold caches and the side that ran before disturb them alike. Overhead is the median of the differences within
a round:

- ``bound``: ``session.run_with_iobinding`` with inputs and outputs bound once (nothing is checked or copied)
- ``session``: ``session.run`` (returns fresh arrays)
- ``infer``: ``model.infer`` (checks names, dtypes and shapes, locks, keeps time, returns fresh arrays)
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import harness
import models

import edgeship
from edgeship.bundle import Contents, write
from edgeship.config import Benchmark, Target
from edgeship.results import Artifact, Candidate, TrialSpec
from edgeship.results import write as write_result
from edgeship.trial.run import run_trial, save_arrays
from vehicle_support import decision

SIZE = 64


def make_bundle(folder: Path) -> Path:
    """A bundle of the network, by a real trial."""
    trial = folder / "trial"
    trial.mkdir()
    models.chain(trial / "model.onnx", SIZE, width=48, depth=4)
    frame = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    save_arrays(trial / "frames.npz", {"images": frame})
    spec = TrialSpec(
        candidate=Candidate(name="fp32", precision="fp32"),
        target=Target(threads=1),
        model=Artifact.of(trial / "model.onnx", trial),
        frames=Artifact.of(trial / "frames.npz", trial),
        benchmark=Benchmark(warmup_s=0.1, min_s=0.2, max_s=2),
    )
    write_result(spec, trial / "spec.json")
    run_trial(trial)
    write(Contents(trial, decision()), folder / "bundle")
    return folder / "bundle"


IN_A_ROW = 10


def _in_a_row(call: Callable[[], object]) -> Callable[[], None]:
    def several() -> None:
        for _ in range(IN_A_ROW):
            call()

    return several


def overhead(bundle: Path, rounds: int) -> dict[str, float]:
    """Median microseconds of a call on each side, and the median differences.

    ``noise_us``: the difference between the bound session and itself. ``over_bound_in_a_row_us``: with ten calls of a
    side one after the other, as in a vehicle's loop, where Python's own code is not displaced by that of other sides.
    """
    array = np.random.default_rng(2).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    output = np.empty((1, 10), np.float32)
    feeds = {"images": array}
    with edgeship.load(bundle) as model:
        session = model.runner.session  # type: ignore[attr-defined]
        binding = session.io_binding()
        binding.bind_input("images", "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        sides = {
            "bound": lambda: session.run_with_iobinding(binding),
            "again": lambda: session.run_with_iobinding(binding),
            "session": lambda: session.run(None, feeds),
            "infer": lambda: model.infer(feeds),
        }
        times = harness.turns(sides, rounds)
        rows = harness.turns({name: _in_a_row(call) for name, call in sides.items()}, rounds // IN_A_ROW)
    over_row = (rows["infer"] - rows["bound"]) * 1e3 / IN_A_ROW
    times = {name: values * 1e3 for name, values in times.items()}
    median = {name: float(np.median(values)) for name, values in times.items()}
    low = {f"{name}_p10": float(np.quantile(values, 0.1)) for name, values in times.items()}
    return {
        **median,
        **low,
        "noise_us": float(np.median(times["again"] - times["bound"])),
        "over_bound_us": float(np.median(times["infer"] - times["bound"])),
        "over_session_us": float(np.median(times["infer"] - times["session"])),
        "over_bound_in_a_row_us": float(np.median(over_row)),
        "over_bound_percent": 100 * float(np.median(times["infer"] - times["bound"])) / median["bound"],
    }


LIBRARIES = "import numpy, pydantic, pydantic.plugin._loader"
"""What the runtime needs of others when it is imported: the floor of its import. An engine's library comes later."""


def imports(rounds: int = 9) -> dict[str, float]:
    """Best wall time of a fresh import over that of an empty interpreter, in seconds, turn by turn: of the runtime, and
    of the libraries alone that it needs."""
    codes = {"nothing": "", "libraries": LIBRARIES, "runtime": "import edgeship.runtime.model"}
    found: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=harness.environment())
            found[name].append(time.perf_counter() - start)
    best = {name: min(values) for name, values in found.items()}
    return {name: best[name] - best["nothing"] for name in ("runtime", "libraries")}


def endurance(bundle: Path, frames: int) -> dict[str, Any]:
    """Frames in a loop: resident memory along the way, p99, and frames lost."""
    array = np.random.default_rng(3).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    memory: list[float] = []
    with edgeship.load(bundle, budget_ms=33.3) as model:
        wanted = model.infer({"images": array})["logits"]
        lost = 0
        start = time.perf_counter()
        for number in range(frames):
            answer = model.infer({"images": array})["logits"]
            lost += not np.array_equal(answer, wanted)
            if number % max(1, frames // 20) == 0:
                memory.append(resident_mib())
        seconds = time.perf_counter() - start
        seen = model.statistics()
    settled = memory[len(memory) // 4 :]
    return {
        "frames": frames,
        "seconds": seconds,
        "lost": lost,
        "missed_33_ms": seen.missed,
        "p99_ms": seen.p99_ms["total"],
        "resident_mib": memory,
        "growth_mib": max(settled) - settled[0],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def resident_mib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = harness.parser(__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3000)
    given = parser.parse_args()
    before = harness.facts()
    harness.compile_sources()
    with tempfile.TemporaryDirectory() as name:
        bundle = make_bundle(Path(name))
        cost, imported, run = overhead(bundle, given.rounds), imports(), endurance(bundle, given.frames)
    sides = ("bound", "session", "infer", "over_bound_us", "over_session_us", "over_bound_in_a_row_us", "noise_us")
    print(harness.table(("one call, median", "µs"), ((side, cost[side]) for side in sides)))
    grew = f"memory grew {run['growth_mib']:.2f} MiB"
    print(f"import: {imported['runtime']:.3f} s, of it numpy and pydantic {imported['libraries']:.3f} s")
    print(f"{run['frames']} frames: p99 {run['p99_ms']:.3f} ms, lost {run['lost']}, {grew}")
    targets = [
        harness.target("`infer` over the bound session, µs", cost["over_bound_us"], max(10.0, cost["bound"] / 100)),
        harness.target("import of the runtime, s", imported["runtime"], 0.3),
        harness.target("frames lost", float(run["lost"]), 0.0),
    ]
    record = {"overhead": cost, "import_s": imported["runtime"], "import_of_libraries_s": imported["libraries"]}
    harness.record(given.json, before, **record, endurance=run, targets=targets)


if __name__ == "__main__":
    main()
