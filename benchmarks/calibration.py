"""Calibration, ours against onnxruntime's and ModelOpt's: time, peak memory, and the INT8 graphs they lead to.

Every contender runs in its own process on the same model and the same frames, one after the other. Peak memory is the
process's own high-water mark (``VmHWM``: it begins again with the program, unlike ``ru_maxrss``).

    python benchmarks/calibration.py time   [--frames 128] [--rounds 3] [--peers 1] [--only NAME …]
    python benchmarks/calibration.py memory
    python benchmarks/calibration.py lite0  --packages FOLDER
    python benchmarks/calibration.py table

Each writes its part of ``--json`` (benchmarks/results/calibration.json); ``table`` prints all of it as Markdown.

time and memory: ResNet-18 of our own definition with Kaiming weights; the frames are photographs where scikit-image is
installed (its pictures, cut at seeded places), the fashion example's pictures enlarged where it is not.
lite0: see calibration_lite0.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
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
        from edgeship.prepare.calibrate import CalibrateOptions, calibrate
        from edgeship.prepare.frame_checks import Batches

        batches = [([str(row)], {"images": stack[row : row + 1]}) for row in range(len(stack))]
        calibrate(model, Batches(batches), folder / "calib.cache", CalibrateOptions(method="mse"))
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
    modules = ["onnx", "onnxruntime"]
    if name.startswith("edgeship"):
        modules += ["edgeship.engines.ort.session", "edgeship.prepare.calibrate"]
    elif name.startswith("onnxruntime"):
        modules += ["onnxruntime.quantization"]
    elif name.startswith("ModelOpt"):
        modules += ["modelopt.onnx.quantization"]
    for module in modules:
        importlib.import_module(module)


def high_water_mib() -> float:
    """The largest resident size of this process so far, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def child(name: str, model: Path, count: int) -> dict[str, float]:
    """Measure one contender in this process."""
    warm(name)
    stack = frames(count)
    before, held = resource.getrusage(resource.RUSAGE_SELF), high_water_mib()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(name, model, stack, Path(folder))
        wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": high_water_mib(), "before_mib": held}


def measure(name: str, model: Path, count: int) -> dict[str, float]:
    """Measure one contender in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "child", "--name", name, "--model", str(model)]
    done = subprocess.run([*command, "--frames", str(count)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}, {count} frames: {found['wall_s']:.2f} s", file=sys.stderr, flush=True)
    return found


def times(model: Path, options: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """Ours and the forward pass ``rounds`` times, the peers ``peers`` times, interleaved; the quickest of each.

    ``known`` is what an earlier run recorded: with ``--only`` contenders can be measured one at a time.
    """
    best: dict[str, dict[str, float]] = known.get("best", {}) if known.get("frames") == options.frames else {}
    for number in range(max(options.rounds, options.peers)):
        for name in CONTENDERS:
            mine = name.startswith(("forward", "edgeship"))
            if number < (options.rounds if mine else options.peers) and name.startswith(tuple(options.only)):
                found = measure(name, model, options.frames)
                best[name] = min(best.get(name, found), found, key=lambda entry: entry["wall_s"])
    return {"frames": options.frames, "best": {name: best[name] for name in CONTENDERS if name in best}}


def memory(model: Path) -> dict[str, Any]:
    """Our peak at 64 and 1,024 frames, without the frames themselves, which the benchmark holds."""
    found = {count: measure(CONTENDERS[2], model, count) for count in (64, 1024)}
    held = {count: entry["peak_mib"] - count * 3 * SIZE * SIZE * 4 / 2**20 for count, entry in found.items()}
    return {"peak_mib": {str(count): mib for count, mib in held.items()}, "ratio": held[1024] / held[64]}


def machine() -> dict[str, Any]:
    """What this ran on."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "load_before": os.getloadavg()[0],
        "versions": {package: version(package) for package in ("numpy", "onnx", "onnxruntime", "nvidia-modelopt")},
    }


def table(found: dict[str, Any]) -> str:
    """The recorded parts as Markdown."""
    where = found["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    lines = [f"{where['cpu']}, {where['cores']} cores; {versions}.", ""]
    if "time" in found:
        best = found["time"]["best"]
        floor, ours = (best.get(name, {}).get("wall_s", float("nan")) for name in (CONTENDERS[0], CONTENDERS[2]))
        lines += ["| ResNet-18, 224, 128 frames | wall s | CPU s | peak MiB | of the forward pass | of ours |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for name, entry in best.items():
            shares = f"{entry['wall_s'] / floor:.2f}× | {entry['wall_s'] / ours:.2f}×"
            lines.append(
                f"| {name} | {entry['wall_s']:.2f} | {entry['cpu_s']:.2f} | {entry['peak_mib']:.0f} | {shares} |"
            )
    if "memory" in found:
        peaks = found["memory"]["peak_mib"]
        few, many = peaks["64"], peaks["1024"]
        text = f"Ours without the frames: {few:.0f} MiB at 64 frames, {many:.0f} MiB at 1,024"
        lines += ["", f"{text} ({found['memory']['ratio']:.2f}×)."]
    if "lite0" in found:
        rows = found["lite0"]["rows"]
        views, count = found["lite0"]["views"], found["lite0"]["frames"]
        lines += ["", f"| EfficientNet-Lite0, {count} frames, judged on {views} views | agreement with FP32 | dB |"]
        lines += ["| --- | --- | --- |"]
        lines += [f"| {row['what']} | {row['agreement']:.3f} | {row['snr_db']:.1f} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure one part and record it, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("time", "memory", "lite0", "table", "child"))
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="of ours and the forward pass")
    parser.add_argument("--peers", type=int, default=1, help="rounds of the peers")
    parser.add_argument("--only", nargs="+", default=[""], help="contenders whose names begin so")
    parser.add_argument("--packages", type=Path, help="where the packages of examples/efficientnet_lite0 are")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "calibration.json")
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help="the network, exported by an earlier run")
    options = parser.parse_args()
    if options.part == "child":
        print(json.dumps(child(options.name, options.model, options.frames)))
        return
    known = json.loads(options.json.read_text()) if options.json.is_file() else {}
    if options.part != "table":
        known["machine"] = machine()
        with tempfile.TemporaryDirectory() as folder:
            if options.part == "lite0":
                import calibration_lite0

                known["lite0"] = calibration_lite0.compare(Path(folder), options, known.get("lite0", {}))
            else:
                import models

                model = options.model or models.resnet18(Path(folder) / "resnet18.onnx", SIZE)
                timed = options.part == "time"
                known[options.part] = times(model, options, known.get("time", {})) if timed else memory(model)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(known, indent=1) + "\n")
    print(table(known))


if __name__ == "__main__":
    main()
