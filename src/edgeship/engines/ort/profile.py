"""What a session really ran, from onnxruntime's own profiler.

The profile names each kernel with its operator, provider and tensor types.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from edgeship.engines.ran import Ran
from edgeship.errors import EngineError

_TYPES = {
    "float": "fp32",
    "float16": "fp16",
    "double": "fp64",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "int8",
    "int16": "int16",
    "uint16": "int16",
}


def read_profile(path: Path) -> tuple[Ran, ...]:
    """The nodes of a profile, each once.

    Raises:
        EngineError: The profile holds no node.
    """
    events = json.loads(path.read_text(encoding="utf-8"))
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            grouped[event["args"].get("node_index", ""), event["name"]].append(event)
    if not grouped:
        raise EngineError("onnxruntime's profile holds no node", do="report this with the model")
    return tuple(_ran(same) for same in grouped.values())


def _ran(same: list[dict[str, Any]]) -> Ran:
    first = same[0]["args"]
    inputs = [next(iter(item)) for item in first.get("input_type_shape", []) if item]
    outputs = [next(iter(item)) for item in first.get("output_type_shape", []) if item]
    types = [_TYPES.get(name, name) for name in inputs + outputs]
    return Ran(
        name=same[0]["name"].removesuffix("_kernel_time"),
        operator=first.get("op_name", ""),
        provider=first.get("provider", ""),
        precision=_precision(first.get("op_name", ""), types),
        touches=frozenset(types),
        output=_TYPES.get(outputs[0], outputs[0]) if outputs else "",
        microseconds=float(statistics.median(event["dur"] for event in same)),
        taken=_first_shape(first.get("input_type_shape")),
        given=_first_shape(first.get("output_type_shape")),
    )


def _first_shape(told: list[dict[str, list[int]]] | None) -> tuple[int, ...]:
    return tuple(next(iter(told[0].values()), ())) if told else ()


def _precision(operator: str, types: list[str]) -> str:
    """The type of a kernel's arithmetic: that of its first input, except where it quantizes that itself."""
    if operator in ("DynamicQuantizeMatMul", "QAttention"):
        return "int8"
    return types[0] if types else ""
