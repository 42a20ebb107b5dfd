"""Two real TensorRT engines in trtexec's own words: ResNet-18 on an A100, FP16 and QAT.

``trt_layers`` holds a line for each layer, with the names, types and times of the reports that NVIDIA/TensorRT
published with its engine explorer (Apache-2.0). ``write`` makes ``--exportLayerInfo`` and ``--exportProfile`` of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent / "trt_layers"
FORMATS = {
    "f32": "Row major linear FP32",
    "f16": "Channel major FP16 format where channel % 8 == 0",
    "i8": "Thirty-two wide channel vectorized row major Int8 format",
}
WEIGHTS = {"f32": "Float", "f16": "Half", "i8": "Int8"}


def write(name: str, folder: Path, *, profile: bool = True) -> Path:
    """Write the exports of an engine as trtexec names nothing but their content; return the layer information."""
    lines = (TABLES / f"resnet18_{name}.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in lines[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / f"resnet18_{name}_graph.json"
    graph.write_text(json.dumps({"Layers": [layer(row) for row in rows], "Bindings": ["input", "output"]}))
    if profile:
        times: list[dict[str, Any]] = [{"count": 1}]
        times += [{"name": row[0], "averageMs": float(row[8]), "medianMs": float(row[8])} for row in rows]
        (folder / f"resnet18_{name}_profile.json").write_text(json.dumps(times))
    return graph


def layer(row: list[str]) -> dict[str, Any]:
    """One layer as the engine inspector tells it at detailed verbosity."""
    name, layer_type, parameters, first, last, kernel, maps, stride, _, origin = row
    found: dict[str, Any] = {
        "Name": name,
        "LayerType": layer_type,
        "Inputs": [{"Name": "x", "Dimensions": [32, 64, 56, 56], "Format/Datatype": FORMATS[first]}],
        "Outputs": [{"Name": "y", "Dimensions": [32, 64, 56, 56], "Format/Datatype": FORMATS[last]}],
    }
    if parameters:
        found["ParameterType"] = parameters
    if parameters == "Convolution":
        found |= {"Kernel": [int(kernel)] * 2, "OutMaps": int(maps), "Stride": [int(stride)] * 2, "Groups": 1}
        found["Weights"] = {"Type": WEIGHTS[first], "Count": 1}
    return found | ({"Origin": origin} if origin else {})
