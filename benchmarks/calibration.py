"""Calibration, ours against onnxruntime's and ModelOpt's: time and peak memory, all in one run.

    python benchmarks/calibration.py [--frames 128] [--rounds 3] [--peers 1] [--json FILE]

For a machine that reaches no registry and has Python 3.12, torch, onnx and onnxruntime, ``make calibration-wheels``
packs the rest, and there: ``sh benchmarks/unpack_wheels.sh build/calibration-wheels /tmp/site`` and with
``PYTHONPATH=src:/tmp/site`` this script with ``--peers 0 --many 512`` (two minutes on 16 cores).

Every contender runs in its own process on the same model and the same frames, the contenders of a round one after the
other; the figures are medians over the rounds, the ratios are taken within them. What does not grow with the frames
(the graph opened and hashed, thresholds, places of Q/DQ pairs compared on sixteen frames) weighs much beside 128
forward passes and little beside 1,024: the ratio is taken at both. ResNet-18 of our own definition with Kaiming
weights; the frames are crops of photographs. ``calibration_lite0.py`` compares the INT8 graphs they lead to.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import peers

SIZE = 224
FORWARD, OURS = "forward", "edgeship, all four methods"
COUNTING, AUTO = "edgeship, counting alone", "edgeship, auto"
METHOD = {OURS: "mse", COUNTING: "mse", AUTO: "auto"}
PEERS = ("onnxruntime MinMax", "onnxruntime Entropy", "onnxruntime Percentile", "ModelOpt entropy", "ModelOpt max")
MODULES = {
    "edgeship": ("edgeship.engines.ort.session", "edgeship.prepare.calibrate"),
    "onnxruntime": ("onnxruntime.quantization",),
    "ModelOpt": ("modelopt.onnx.quantization",),
}
"""What each contender imports: before the clock starts, so that imports are in nobody's time."""


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Crops of photographs, dimmed and normalized: float32 [count, 3, 224, 224]."""
    random = np.random.default_rng(seed)
    made = np.empty((count, 3, SIZE, SIZE), np.float32)
    for index, crop in enumerate(itertools.islice(harness.crops(SIZE, seed), count)):
        made[index] = ((crop * random.uniform(0.6, 1.0) - 120.0) / 60.0).transpose(2, 0, 1)
    return made


def run(name: str, model: Path, stack: np.ndarray, folder: Path) -> None:
    """One contender's whole calibration."""
    if name == FORWARD:
        import onnxruntime as ort

        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        for row in range(len(stack)):
            session.run(None, {"images": stack[row : row + 1]})
    elif name in METHOD:
        from edgeship.prepare.calibrate import CalibrateOptions, calibrate
        from edgeship.prepare.frame_checks import Batches

        batches = [([str(row)], {"images": stack[row : row + 1]}) for row in range(len(stack))]
        settings = CalibrateOptions(method=METHOD[name], placement=name != COUNTING)
        calibrate(model, Batches(batches), folder / "calib.cache", settings)
    else:
        peers.quantize(name, model, stack, folder / "peer.onnx")


def sampling(model: Path, count: int = 8, part: int = 4) -> dict[str, dict[str, float]]:
    """How many thresholds leave their bin where every ``part``-th value is counted, positions rotating by frame."""
    from edgeship.prepare import graph, thresholds
    from edgeship.prepare.calibrate import _open
    from edgeship.prepare.counting import Scratch, compiled
    from edgeship.prepare.histogram import Histogram
    from edgeship.prepare.running import Running

    _, proto, touched = _open(model)
    names = [name for name in touched.observed if name != "images"]
    running, scratch = Running(graph.with_outputs(proto, names), layout=True, threads=1), Scratch(compiled())
    whole, some = ({name: Histogram() for name in names} for _ in range(2))
    for number, frame in enumerate(frames(count)):
        for name, values in zip(names, running.run(names, {"images": frame[None]}), strict=True):
            whole[name].add(values, scratch)
            some[name].add(values.reshape(-1)[number % part :: part], scratch)
    found = {}
    for method in ("percentile", "mse", "entropy"):
        moved = []
        for name in names:
            some[name].grow(whole[name].exponent or 0)
            both = [thresholds.symmetric(one[name], method, 99.99) for one in (whole, some)]
            moved.append(abs(both[0] - both[1]) / whole[name].width)
        beyond = sum(bins > 1 for bins in moved)
        found[method] = {"tensors": len(names), "beyond_a_bin": beyond, "median_bins": statistics.median(moved)}
    print(harness.table(("every fourth value", *found["mse"]), [(name, *row.values()) for name, row in found.items()]))
    return found


def child(name: str, model: Path, count: int) -> dict[str, float]:
    """Measure one contender in this process; ``held_mib`` is what it holds before it begins, frames and all."""
    for module in ("onnx", "onnxruntime", *MODULES.get(name.split(maxsplit=1)[0].rstrip(","), ())):
        importlib.import_module(module)
    stack = frames(count)
    before, held = resource.getrusage(resource.RUSAGE_SELF), harness.high_water_mib()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(name, model, stack, Path(folder))
        wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": harness.high_water_mib(), "held_mib": held}


def measure(name: str, model: Path, count: int) -> dict[str, float]:
    """Measure one contender in a process of its own."""
    found: dict[str, float] = harness.child(__file__, "--child", name, "--model", model, "--frames", count)
    print(f"{name}, {count} frames: {found['wall_s']:.2f} s, peak {found['peak_mib']:.0f} MiB", flush=True)
    return found


def main() -> None:
    """Measure all contenders, our memory over the number of frames, and print the table."""
    parser = harness.parser(__doc__)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="of ours and the forward pass")
    parser.add_argument("--peers", type=int, default=1, help="rounds in which the peers take part")
    parser.add_argument("--many", type=int, default=1024, help="frames of the memory test")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child, given.model, given.frames)))
        return
    before = harness.facts()
    with tempfile.TemporaryDirectory() as folder:
        import models

        model = models.resnet18(Path(folder) / "resnet18.onnx", SIZE)
        own = (FORWARD, COUNTING, OURS, AUTO)
        rounds = [
            {name: measure(name, model, given.frames) for name in (*own, *(PEERS if n < given.peers else ()))}
            for n in range(given.rounds)
        ]
        few, many = (measure(OURS, model, count) for count in (64, given.many))
        many["forward_s"] = measure(FORWARD, model, given.many)["wall_s"]
        sampled = sampling(model)
    harness.record(given.json, before, sampling=sampled, **report(given, rounds, few, many))


def report(
    given: argparse.Namespace, rounds: list[Any], few: dict[str, float], many: dict[str, float]
) -> dict[str, Any]:
    """Print the table and the targets; the figures to record."""
    wall, cpu, peak = (harness.medians(rounds, key) for key in ("wall_s", "cpu_s", "peak_mib"))
    head = (f"ResNet-18, 224, {given.frames} frames", "wall s", "CPU s", "peak MiB", "of the forward pass", "of ours")
    rows = [
        (name, wall[name], cpu[name], peak[name], wall[name] / wall[FORWARD], wall[name] / wall[OURS]) for name in wall
    ]
    print(harness.table(head, rows))
    held = [found["peak_mib"] - count * 3 * SIZE * SIZE * 4 / 2**20 for found, count in ((few, 64), (many, given.many))]
    print(f"ours without the frames: {held[0]:.0f} MiB at 64 frames, {held[1]:.0f} MiB at {given.many}")
    over = {name: _ratio(rounds, name, FORWARD) for name in METHOD}
    automatic = _ratio(rounds, AUTO, OURS)
    cores = len(os.sched_getaffinity(0))
    limit = 1.2 if cores <= 4 else 1.5
    targets = [
        harness.target(f"counting over the forward pass, {cores} cores", over[COUNTING], limit),
        harness.target(f"calibration, with placements, over the forward pass, {cores} cores", over[OURS], limit),
        harness.target(
            f"calibration, with placements, over the forward pass, {given.many} frames, {cores} cores",
            many["wall_s"] / many["forward_s"],
            limit,
        ),
        harness.target("`auto` over one method", automatic, 2.0),
        harness.target(f"our memory at {given.many} frames over 64", held[1] / held[0], 1.1),
        harness.target(f"our peak memory without the frames, MiB, {cores} cores", max(held), 1500.0),
    ]
    return {
        "frames": given.frames, "rounds": rounds, "median_wall_s": wall, "over_forward": over,
        "auto_over_one": automatic, "many": {"frames": given.many, **many},
        "memory_mib": {"64": held[0], str(given.many): held[1]}, "targets": targets,
    }  # fmt: skip


def _ratio(rounds: list[Any], name: str, other: str) -> float:
    """The median over rounds of the wall time of one contender over that of another in the same round."""
    return statistics.median(found[name]["wall_s"] / found[other]["wall_s"] for found in rounds)


if __name__ == "__main__":
    main()
