"""EfficientNet-Lite0 on real photographs: how often INT8 graphs by several calibrators answer as FP32 does.

Network, weights and photographs come from the packages that examples/efficientnet_lite0/requirements.txt names.
Everyone calibrates on the same crops of scikit-image's photographs and is judged on the same views (centre crop, and
seeded crops, some mirrored) of foolbox's twenty ImageNet photographs.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "efficientnet_lite0"
SIZE = (224, 224)
VIEWS_EACH = 10


def compare(folder: Path, packages: Path | None, count: int) -> dict[str, Any]:
    """Calibrate by every contender, and compare each graph with FP32."""
    import onnx

    from edgeship.prepare import graph, noise
    from edgeship.prepare.placement import infer

    sys.path[:0] = [str(EXAMPLE), *([str(packages)] if packages else [])]
    data: Any = importlib.import_module("data")
    preprocess = _preprocess()
    path = _export(folder)
    frames = [preprocess(pixels) for pixels, _, _ in itertools.islice(data.frames(), 0, None, 256 // count)]
    views = [([str(row)], {"images": preprocess(view)}) for row, view in enumerate(_views(data))]
    reference = infer(graph.load_onnx(path))
    made = {**_ours(path, frames, folder), **_onnxruntime(path, frames, folder), **_modelopt(path, frames, folder)}
    rows = []
    for name, (file, optimize) in made.items():
        found = noise.compare(reference, onnx.load(str(file)), views, limit=len(views), layers=False, optimize=optimize)
        rows.append({"what": name, "agreement": found.agreement, "snr_db": found.output_snr_db})
        print(rows[-1], file=sys.stderr, flush=True)
    return {"frames": len(frames), "views": len(views), "rows": rows}


def _export(folder: Path) -> Path:
    from edgeship.config import Model
    from edgeship.prepare.export import export
    from edgeship.prepare.slim import slim

    inputs = {"images": {"shape": ["batch", 3, *SIZE]}}
    made = export(Model.model_validate({"source": "model:build", "inputs": inputs}), EXAMPLE, folder)
    slim(folder / made.model.path, folder / "slim.onnx")
    return folder / "slim.onnx"


def _preprocess() -> Any:
    from edgeship.config import load
    from edgeship.data.preprocess import apply

    settings = load(EXAMPLE / "edgeship.toml").preprocess
    return lambda pixels: np.ascontiguousarray(apply(pixels, settings, SIZE)[0][None])


def _views(data: Any) -> Iterator[np.ndarray]:
    """The whole photograph, then crops of at least 0.7 of its shorter side, half of them mirrored."""
    from PIL import Image

    random = np.random.default_rng(1)
    for path, _, _ in data.photographs():
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        yield pixels
        for number in range(1, VIEWS_EACH):
            side = int(min(pixels.shape[:2]) * random.uniform(0.7, 1.0))
            top, left = (int(random.integers(0, length - side + 1)) for length in pixels.shape[:2])
            crop = pixels[top : top + side, left : left + side]
            yield np.ascontiguousarray(crop[:, ::-1] if number % 2 else crop)


def _ours(path: Path, frames: list[np.ndarray], folder: Path) -> dict[str, tuple[Path, bool]]:
    from edgeship.prepare import cache
    from edgeship.prepare.calibrate import METHODS, Options, calibrate
    from edgeship.prepare.intake import Batches
    from edgeship.prepare.quantize import Plan, quantize

    batches = [([str(row)], {"images": frame}) for row, frame in enumerate(frames)]
    made = {}
    for method in (*METHODS, "auto"):
        done = calibrate(path, Batches(batches), folder / f"{method}.cache", Options(method=method))
        known = cache.load(folder / f"{method}.cache", cache.Expected(graph_sha256=done.graph_sha256))
        label = method if method != "auto" else f"auto ({done.method})"
        out = folder / f"ours-{method}.onnx"
        quantize(path, "onnxruntime", known, out, batches[:2], Plan(layers=False))
        made[f"edgeship {label}, for onnxruntime"] = (out, True)
    out = folder / "ours-trt.onnx"
    quantize(path, "tensorrt", known, out, batches[:2], Plan(precision="int8-fp32", layers=False))
    made[f"edgeship {label}, for TensorRT"] = (out, False)
    return made


def _onnxruntime(path: Path, frames: list[np.ndarray], folder: Path) -> dict[str, tuple[Path, bool]]:
    from calibration import reader
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    made = {}
    for method in ("MinMax", "Entropy", "Percentile"):
        out = folder / f"ort-{method}.onnx"
        quantize_static(
            str(path),
            str(out),
            reader(np.concatenate(frames)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method),
        )
        made[f"onnxruntime {method}"] = (out, True)
    return made


def _modelopt(path: Path, frames: list[np.ndarray], folder: Path) -> dict[str, tuple[Path, bool]]:
    from modelopt.onnx.quantization import quantize

    made = {}
    for method in ("entropy", "max"):
        out = folder / f"modelopt-{method}.onnx"
        quantize(
            str(path),
            calibration_data={"images": np.concatenate(frames)},
            calibration_method=method,
            calibration_eps=["cpu"],
            output_path=str(out),
            high_precision_dtype="fp32",
            log_level="ERROR",
        )
        made[f"ModelOpt {method}"] = (out, False)
    return made
