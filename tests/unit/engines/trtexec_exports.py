"""Two small made-up engines as trtexec exports them: one network in FP16, and in INT8 with much Q/DQ.

``write`` makes ``--exportLayerInfo`` and ``--exportProfile``. Names, shapes and times are invented; the form is that of
TensorRT's engine inspector at detailed verbosity.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REAL = Path(__file__).resolve().parents[4] / "shared" / "reference" / "trt-engine-reports"
"""Reports of real engines, where they stand beside the checkout."""
FORMATS = {
    "f32": "Row major linear FP32",
    "f16": "Channel major FP16 format where channel % 8 == 0",
    "i8": "Thirty-two wide channel vectorized row major Int8 format",
}
WEIGHTS = {"f32": "Float", "f16": "Half", "i8": "Int8"}
CONV, POOL = ("CaskConvolution", "Convolution"), ("TiledPooling", "Pooling")
REFORMAT, QDQ = ("Reformat", "Reformat", "REFORMAT"), ("Reformat", "Reformat", "QDQ")
ENGINES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "fp16": (
        ("Reformatting CopyNode for Input Tensor 0 to stem + act", REFORMAT, "f32", "f16", 0, 0, 1, 0.08),
        ("stem + act", CONV, "f16", "f16", 7, 64, 2, 0.11),
        ("pool", POOL, "f16", "f16", 0, 0, 2, 0.06),
        ("Reformatting CopyNode for Input Tensor 1 to wide", ("NoOp", ""), "f16", "f16", 0, 0, 1, 0.0),
        ("wide + add", CONV, "f16", "f16", 3, 128, 1, 0.10),
        ("down", CONV, "f16", "f16", 1, 128, 2, 0.05),
        ("classifier", CONV, "f16", "f32", 1, 1000, 1, 0.02),
    ),
    "int8": (
        ("quantize_in", QDQ, "f32", "i8", 0, 0, 1, 0.06),
        ("stem.weight + quantize_1 + stem_q", CONV, "i8", "f32", 7, 64, 2, 0.20),
        ("pool_q", POOL, "f32", "f32", 0, 0, 2, 0.09),
        ("Reformatting CopyNode for Output Tensor 0 to pool_q", REFORMAT, "f32", "f16", 0, 0, 1, 0.04),
        ("quantize_2", QDQ, "f16", "i8", 0, 0, 1, 0.03),
        ("down.weight + quantize_3 + down_q", CONV, "i8", "i8", 1, 128, 2, 0.02),
        ("wide.weight + quantize_4 + wide_q + add_q", CONV, "i8", "i8", 3, 128, 1, 0.03),
        ("classifier.weight + quantize_5 + classifier_q", CONV, "i8", "f32", 1, 1000, 1, 0.01),
    ),
}
"""Name, kind, first input, first output, kernel, output maps, stride, milliseconds."""


def write(name: str, folder: Path, *, profile: bool = True) -> Path:
    """Write the exports of an engine; return the layer information."""
    rows = ENGINES[name]
    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / f"net_{name}_graph.json"
    graph.write_text(json.dumps({"Layers": [layer(row) for row in rows], "Bindings": ["input", "output"]}))
    if profile:
        times: list[dict[str, Any]] = [{"count": 1}]
        times += [{"name": row[0], "averageMs": row[7], "medianMs": row[7]} for row in rows]
        (folder / f"net_{name}_profile.json").write_text(json.dumps(times))
    return graph


def layer(row: tuple[Any, ...]) -> dict[str, Any]:
    """One layer as the engine inspector tells it."""
    name, (layer_type, parameters, *origin), first, last, kernel, maps, stride, _ = row
    found: dict[str, Any] = {
        "Name": name,
        "LayerType": layer_type,
        "Inputs": [{"Name": "x", "Dimensions": [32, 64, 56, 56], "Format/Datatype": FORMATS[first]}],
        "Outputs": [{"Name": "y", "Dimensions": [32, 64, 56, 56], "Format/Datatype": FORMATS[last]}],
    }
    if parameters:
        found["ParameterType"] = parameters
    if parameters == "Convolution":
        found |= {"Kernel": [kernel] * 2, "OutMaps": maps, "Stride": [stride] * 2, "Groups": 1}
        found["Weights"] = {"Type": WEIGHTS[first], "Count": 1}
    return found | ({"Origin": origin[0]} if origin else {})
