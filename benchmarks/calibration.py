"""Calibration, ours against onnxruntime's and ModelOpt's: time and peak memory, all in one run.

    python benchmarks/calibration.py [--frames 128] [--rounds 3] [--peers 1] [--json FILE]

Every contender runs in its own process on the same model and the same frames, the contenders of a round one after the
other; the figures are medians over the rounds, the ratios are taken within them. ResNet-18 of our own definition with
Kaiming weights; the frames are crops of photographs. ``calibration_lite0.py`` compares the INT8 graphs they lead to.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import peers

SIZE = 224
FORWARD, OURS = "forward", "edgeship, all four methods"
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
    elif name == OURS:
        from edgeship.prepare.calibrate import CalibrateOptions, calibrate
        from edgeship.prepare.frame_checks import Batches

        batches = [([str(row)], {"images": stack[row : row + 1]}) for row in range(len(stack))]
        calibrate(model, Batches(batches), folder / "calib.cache", CalibrateOptions(method="mse"))
    else:
        peers.quantize(name, model, stack, folder / "peer.onnx")


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
        rounds = [
            {name: measure(name, model, given.frames) for name in (FORWARD, OURS, *(PEERS if n < given.peers else ()))}
            for n in range(given.rounds)
        ]
        few, many = (measure(OURS, model, count) for count in (64, given.many))
    harness.record(given.json, before, **report(given, rounds, few, many))


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
    targets = [
        harness.target("ours over the forward pass, 2 cores", wall[OURS] / wall[FORWARD], 1.2),
        harness.target("our memory at many frames over 64", held[1] / held[0], 1.1),
    ]
    return {
        "frames": given.frames, "rounds": rounds, "median_wall_s": wall,
        "memory_mib": {"64": held[0], str(given.many): held[1]}, "targets": targets,
    }  # fmt: skip


if __name__ == "__main__":
    main()
