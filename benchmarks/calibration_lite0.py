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
VIEWS_EACH = 50


CONTENDERS = (
    "edgeship minmax",
    "edgeship percentile",
    "edgeship entropy",
    "edgeship mse",
    "edgeship auto",
    "edgeship auto for TensorRT",
    "onnxruntime MinMax",
    "onnxruntime Entropy",
    "onnxruntime Percentile",
    "ModelOpt entropy",
    "ModelOpt max",
)


def compare(folder: Path, options: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Calibrate by every contender that ``options.only`` names, and compare each graph with FP32.

    ``known`` is what an earlier run recorded; its other rows are kept where frames and views are as many.
    """
    import onnx

    from edgeship.prepare import compare, graph
    from edgeship.prepare.inferred_graph import infer

    sys.path[:0] = [str(EXAMPLE), *([str(options.packages)] if options.packages else [])]
    data: Any = importlib.import_module("data")
    preprocess = _preprocess()
    path = options.model or _export(folder)
    frames = [preprocess(pixels) for pixels, _, _ in itertools.islice(data.frames(), 0, None, 256 // options.frames)]
    views = [([str(row)], {"images": preprocess(view)}) for row, view in enumerate(_views(data))]
    reference = infer(graph.load_onnx(path))
    same = (known.get("frames"), known.get("views")) == (len(frames), len(views))
    rows = {row["what"].partition(" (")[0]: row for row in known["rows"]} if same else {}
    for name in CONTENDERS:
        if not name.startswith(tuple(options.only)):
            continue
        maker = {"edgeship": _ours, "onnxruntime": _onnxruntime, "ModelOpt": _modelopt}[name.split()[0]]
        label = maker(name, path, frames, folder / "made.onnx")
        optimize = not name.startswith("ModelOpt") and not name.endswith("TensorRT")
        made = onnx.load(str(folder / "made.onnx"))
        found = compare.compare(reference, made, views, limit=len(views), layers=False, optimize=optimize)
        rows[name] = {"what": label, "agreement": found.agreement, "snr_db": found.output_snr_db}
        print(rows[name], file=sys.stderr, flush=True)
    return {"frames": len(frames), "views": len(views), "rows": [rows[name] for name in CONTENDERS if name in rows]}


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


def _ours(name: str, path: Path, frames: list[np.ndarray], out: Path) -> str:
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.calibrate import CalibrateOptions, calibrate, method_named
    from edgeship.prepare.frame_checks import Batches
    from edgeship.prepare.quantize import QuantizeOptions, quantize

    batches = [([str(row)], {"images": frame}) for row, frame in enumerate(frames)]
    method = method_named(name.split()[1])
    done = calibrate(path, Batches(batches), out.with_name("calib.cache"), CalibrateOptions(method=method))
    known = calibration_cache.load(
        out.with_name("calib.cache"), calibration_cache.Expected(graph_sha256=done.graph_sha256)
    )
    if name.endswith("TensorRT"):
        quantize(path, known, out, batches[:2], QuantizeOptions("tensorrt", "int8-fp32", layers=False))
    else:
        quantize(path, known, out, batches[:2], QuantizeOptions(layers=False))
    return f"{name} ({done.method})" if method == "auto" else name


def _onnxruntime(name: str, path: Path, frames: list[np.ndarray], out: Path) -> str:
    from calibration import reader
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    quantize_static(
        str(path),
        str(out),
        reader(np.concatenate(frames)),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, name.split()[1]),
    )
    return name


def _modelopt(name: str, path: Path, frames: list[np.ndarray], out: Path) -> str:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(path),
        calibration_data={"images": np.concatenate(frames)},
        calibration_method=name.split()[1],
        calibration_eps=["cpu"],
        output_path=str(out),
        high_precision_dtype="fp32",
        log_level="ERROR",
    )
    return name
