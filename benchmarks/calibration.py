"""Calibration, ours against onnxruntime's and ModelOpt's: time, peak memory, and the INT8 graphs they lead to.

Every contender runs in its own process on the same model and the same frames, one after the other. Peak memory is the
process's own high-water mark (``ru_maxrss``), above what the same process holds after its imports and the model's load.

    python benchmarks/calibration.py [--frames 128] [--rounds 3] [--out calibration.json]

The network is ResNet-18 of our own definition with Kaiming weights; the frames are photographs where scikit-image is
installed (its pictures, cut at seeded places), the fashion example's pictures enlarged where it is not.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SIZE = 224
CONTENDERS = (
    "forward",
    "forward, batch 8",
    "edgeship, all four methods",
    "onnxruntime MinMax",
    "onnxruntime Entropy",
    "onnxruntime Percentile",
    "ModelOpt entropy",
    "ModelOpt max",
)


def photographs() -> list[np.ndarray]:
    """uint8 RGB pictures larger than the network's input."""
    from PIL import Image

    try:
        from skimage import data
    except ImportError:
        paths = sorted((HERE.parent / "examples" / "fashion" / "calib").glob("*.png"))[:64]
        return [
            np.asarray(Image.open(path).convert("RGB").resize((320, 320), Image.Resampling.BICUBIC)) for path in paths
        ]
    return [data.astronaut(), data.chelsea(), data.coffee()]


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Seeded crops of photographs, flipped and dimmed, as normalized float32 [count, 3, 224, 224]."""
    rng = np.random.default_rng(seed)
    pictures = photographs()
    made = np.empty((count, 3, SIZE, SIZE), np.float32)
    for index in range(count):
        picture = pictures[index % len(pictures)]
        top, left = (int(rng.integers(0, length - SIZE + 1)) for length in picture.shape[:2])
        crop = picture[top : top + SIZE, left : left + SIZE].astype(np.float32) * rng.uniform(0.6, 1.0)
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        made[index] = ((crop - 120.0) / 60.0).transpose(2, 0, 1)
    return made


def reader(stack: np.ndarray) -> Any:
    """onnxruntime's calibration reader, one frame at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._rows = iter(range(len(stack)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {"images": stack[row : row + 1]}

        def get_first(self) -> dict[str, np.ndarray]:
            return {"images": stack[:1]}

    return Reader()


def run(name: str, model: Path, stack: np.ndarray, folder: Path) -> None:
    """One contender's whole calibration."""
    if name.startswith("forward"):
        import onnxruntime as ort

        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        batch = 8 if name.endswith("8") else 1
        for row in range(0, len(stack), batch):
            session.run(None, {"images": stack[row : row + batch]})
    elif name.startswith("edgeship"):
        from edgeship.prepare.calibrate import Options, calibrate
        from edgeship.prepare.intake import Batches

        batches = [([str(row)], {"images": stack[row : row + 1]}) for row in range(len(stack))]
        calibrate(model, Batches(batches), folder / "calib.cache", Options(method="mse"))
    elif name.startswith("onnxruntime"):
        from onnxruntime.quantization import CalibrationMethod, quantize_static

        method = getattr(CalibrationMethod, name.split()[1])
        quantize_static(str(model), str(folder / "ort.onnx"), reader(stack), per_channel=True, calibrate_method=method)
    else:
        from modelopt.onnx.quantization import quantize

        quantize(
            str(model),
            calibration_data={"images": stack},
            calibration_method=name.split()[1],
            calibration_eps=["cpu"],
            output_path=str(folder / "modelopt.onnx"),
            high_precision_dtype="fp32",
            log_level="ERROR",
        )


def warm(name: str) -> None:
    """Import what the contender needs, so that imports are in nobody's time."""
    import onnxruntime

    if name.startswith("edgeship"):
        import edgeship.prepare.calibrate  # noqa: F401
    elif name.startswith("onnxruntime"):
        import onnxruntime.quantization  # noqa: F401
    elif name.startswith("ModelOpt"):
        import modelopt.onnx.quantization  # noqa: F401


def child(name: str, model: Path, count: int) -> dict[str, float]:
    """Measure one contender in this process."""
    warm(name)
    stack = frames(count)
    before = resource.getrusage(resource.RUSAGE_SELF)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(name, model, stack, Path(folder))
        wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": after.ru_maxrss / 1024, "before_mib": before.ru_maxrss / 1024}


def measure(name: str, model: Path, count: int) -> dict[str, float]:
    """Measure one contender in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", name, "--model", str(model), "--frames", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--skip-memory", action="store_true", help="Leave out the run at 64 and 1,024 frames.")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.model, options.frames)))
        return
    with tempfile.TemporaryDirectory() as folder:
        import models

        model = models.resnet18(Path(folder) / "resnet18.onnx", SIZE)
        rounds = [{name: measure(name, model, options.frames) for name in CONTENDERS} for _ in range(options.rounds)]
        sizes = () if options.skip_memory else (64, 1024)
        memory = {count: measure(CONTENDERS[2], model, count) for count in sizes}
    best = {name: min((entry[name] for entry in rounds), key=lambda found: found["wall_s"]) for name in CONTENDERS}
    ours, floor = best[CONTENDERS[2]]["wall_s"], best["forward"]["wall_s"]
    print(f"{platform.processor() or platform.machine()}, {options.frames} frames of {SIZE}, best of {options.rounds}")
    print(f"{'':<28}{'wall s':>8}{'cpu s':>8}{'peak MiB':>10}{'/ forward':>11}{'/ ours':>9}")
    for name, entry in best.items():
        cells = f"{entry['wall_s']:>8.2f}{entry['cpu_s']:>8.2f}{entry['peak_mib']:>10.0f}"
        print(f"{name:<28}{cells}{entry['wall_s'] / floor:>10.2f}×{entry['wall_s'] / ours:>8.2f}×")
    held = {count: entry["peak_mib"] - count * 3 * SIZE * SIZE * 4 / 2**20 for count, entry in memory.items()}
    for count, mib in held.items():
        print(f"ours at {count} frames: peak {mib:.0f} MiB without the frames themselves")
    if held:
        print(f"ratio {held[1024] / held[64]:.2f}×")
    if options.out:
        options.out.write_text(json.dumps({"rounds": rounds, "memory_mib": held, "frames": options.frames}, indent=1))


if __name__ == "__main__":
    main()
