"""Sections of benchmarks/gpu.py around the engine: parity with PyTorch, calibration, and `ship` from model to report.

Each takes a work folder and returns figures as JSON-ready values, as those of ``gpu_sections`` do.
"""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_sections import FRAMES, SIZE, SOURCE, frames, photographs

EXAMPLE_LIMIT_S = 240


def parity(work: Path) -> dict[str, Any]:
    """PyTorch on CUDA against the engine on CUDA, TF32 off and on, and FP16 against FP32."""
    import torch

    from edgeship import engines

    sys.path.insert(0, str(work / "source"))
    from resnet_random import build

    batch = np.concatenate(list(itertools.islice(frames(), 8)))
    module = build().cuda()
    answers = {}
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with torch.inference_mode():
            answers[f"torch tf32={tf32}"] = module(torch.from_numpy(batch).cuda()).float().cpu().numpy()
    for name, tf32 in (("fp32", False), ("fp32", True), ("fp16", False)):
        options = engines.OpenOptions(device="cuda:0", cuda_graph=True, tf32=tf32)
        with engines.get("onnxruntime").open(work / f"{name}.onnx", options) as runner:
            info = runner.inputs[0]
            (found,) = runner.infer({info.name: batch.astype(info.dtype)}).values()
            answers[f"engine {name} tf32={tf32}"] = found.astype(np.float32)
    truth = answers["torch tf32=False"]
    scale = float(np.abs(truth).max())
    rows = [{"what": key, "max_abs": float(np.abs(value - truth).max())} for key, value in answers.items()]
    return {"rows": rows, "scale": scale}


def calibrate(work: Path) -> dict[str, Any]:
    """Calibration of ResNet-50 in batches of 8: 512 real frames on the GPU, 128 on the CPU of the same machine.

    ``forward_fps`` and ``observed_fps`` are frames per second of the plain forward pass and of the same pass with
    every observed tensor counted, frames coming from host memory in both, best of three rounds after a warm-up.
    """
    from edgeship.prepare.calibrate import CalibrateOptions
    from edgeship.prepare.calibrate import calibrate as run
    from edgeship.prepare.frame_checks import Batches

    name = json.loads((work / "input.json").read_text()) if (work / "input.json").is_file() else "images"
    stack = np.concatenate(list(itertools.islice(frames(), FRAMES)))
    rows = []
    for device, count in (("cuda:0", FRAMES), ("cpu", 128)):
        held = [
            (tuple(f"frame-{row}" for row in range(start, start + 8)), {name: stack[start : start + 8]})
            for start in range(0, count, 8)
        ]
        row = {"device": device, "frames": count, "batch": 8, **_observation(work / "fp32.onnx", held, device)}
        for method in ("entropy", "auto"):
            place = work / f"calibration-{device.replace(':', '')}-{method}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            begin = time.perf_counter()
            options = CalibrateOptions(method=method, device=device)
            done = run(work / "fp32.onnx", Batches(held), place / "calibration.cache", options)
            row[f"{method}_s"] = time.perf_counter() - begin
        row |= {"seconds": row["auto_s"], "tensors": done.tensors, "method": done.method}
        row["host_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    return {"rows": rows}


def _observation(path: Path, held: list[Any], device: str) -> dict[str, float]:
    from edgeship.prepare import graph
    from edgeship.prepare.activations import Observer
    from edgeship.prepare.inferred_graph import infer
    from edgeship.prepare.quantized_tensors import find_tensors
    from edgeship.prepare.running import Running

    proto = infer(graph.load_onnx(path))
    session = Running(proto, device=device)
    observer = Observer(proto, find_tensors(proto).observed, device=device)
    taken: dict[str, list[float]] = {"forward": [], "observed": []}
    for number in range(4):
        part = held if number else held[:6]  # round 0 warms up
        begin = time.perf_counter()
        for _, feeds in part:
            session.run(None, feeds)
        middle = time.perf_counter()
        for _ in observer.observe(iter(part)):
            pass
        if number:
            taken["forward"].append(middle - begin)
            taken["observed"].append(time.perf_counter() - middle)
    frames_seen = sum(len(ids) for ids, _ in held)
    best = {f"{key}_fps": frames_seen / min(values) for key, values in taken.items()}
    return best | {"ratio": best["forward_fps"] / best["observed_fps"]}


def ship(work: Path) -> dict[str, Any]:
    """`edgeship ship` for ResNet-50 on the GPU: export, parity, FP16, calibration, trials, report."""
    place = work / "ship"
    shutil.rmtree(place, ignore_errors=True)
    _ship_project(place)
    begin = time.perf_counter()
    command = [sys.executable, "-m", "edgeship", "ship", str(place / "edgeship.toml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False)
    seconds = time.perf_counter() - begin
    result = next(iter(place.rglob("result.json")), None)
    if result is None:
        raise SystemExit(f"ship ended with {done.returncode}: {done.stderr[-1500:]} {done.stdout[-500:]}")
    found = json.loads(result.read_text())
    return {
        "exit_code": done.returncode,
        "seconds_in_all": seconds,
        "verdict": found.get("verdict"),
        "chosen": found.get("chosen"),
        "stages": found.get("stages"),
        "trials": [
            {key: trial.get(key) for key in ("candidate", "latency_ms", "metrics", "drop", "passed", "reasons")}
            for trial in found.get("trials", [])
        ],
        "said": done.stderr[-500:],
    }


def examples(work: Path) -> dict[str, Any]:
    """EfficientNet-Lite0 and YOLOX-Nano through `edgeship ship` on the GPU, FP32 against FP16.

    Needs the packages of their requirements.txt on PYTHONPATH.
    """
    root = Path(__file__).resolve().parents[1] / "examples"
    rows = []
    for name, prepare in (
        ("efficientnet_lite0", ()),
        ("yolox_nano", (("get_model.py",), ("make_scenes.py", "--count", "100"))),
    ):
        place = work / "examples" / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(root / name, place, ignore=shutil.ignore_patterns("edgeship-out", "scenes", "*.onnx"))
        config = place / "edgeship.toml"
        text = config.read_text().replace('device = "cpu"', 'device = "cuda:0"')
        text = text.replace('["fp32", "int8"]', '["fp32", "fp16"]')
        config.write_text(text)
        for script in prepare:
            subprocess.run([sys.executable, *script], cwd=place, check=True, stdout=sys.stderr)
        begin = time.perf_counter()
        command = [sys.executable, "-m", "edgeship", "ship", str(config)]
        log = work / "examples" / f"{name}.log"
        with log.open("w") as stream:
            try:
                code: int | None = subprocess.run(
                    command, stdout=stream, stderr=stream, cwd=place, check=False, timeout=EXAMPLE_LIMIT_S
                ).returncode
            except subprocess.TimeoutExpired:
                code = None
        said = log.read_text()
        print(f"--- {name}\n{said}", file=sys.stderr, flush=True)
        row: dict[str, Any] = {"example": name, "exit_code": code, "seconds": time.perf_counter() - begin}
        result = place / "edgeship-out" / "result.json"
        if result.is_file():
            found = json.loads(result.read_text())
            wanted = ("candidate", "latency_ms", "metrics", "drop", "passed", "reasons")
            row |= {key: found[key] for key in ("verdict", "chosen", "sentence")}
            row["trials"] = [{key: trial.get(key) for key in wanted} for trial in found["trials"]]
        else:
            row["said"] = said[-1000:]
        rows.append(row)
    return {"rows": rows}


def _ship_project(place: Path) -> None:
    from PIL import Image

    place.mkdir(parents=True)
    (place / "resnet_random.py").write_text(SOURCE)
    crops = (crop for crop in photographs() if crop.shape[:2] == (SIZE, SIZE))
    for number in range(FRAMES):
        (place / "calib").mkdir(exist_ok=True)
        Image.fromarray(next(crops)).save(place / "calib" / f"{number:04}.png", compress_level=1)
    for number in range(200):
        folder = place / "val" / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(next(crops)).save(folder / f"{number:04}.png", compress_level=1)
    (place / "classes.txt").write_text("".join(f"class{number}\n" for number in range(1000)))
    (place / "edgeship.toml").write_text(
        """
[model]
source = "resnet_random:build"

[model.inputs.images]
shape = ["batch", 3, 224, 224]

[preprocess]
fit = "center-crop"
crop_fraction = 1.0
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

[calibration]
images = "calib/"
count = 512
device = "cuda:0"

[evaluation]
task = "classification"
images = "val/"
classes = "classes.txt"

[target]
engine = "onnxruntime"
device = "cuda:0"
batch = { min = 1, opt = 1, max = 8 }

[candidates]
precisions = ["fp32", "fp16", "int8"]

[gate]
latency_p50_ms = 1.0
max_drop = { top1 = 0.05 }
"""
    )
