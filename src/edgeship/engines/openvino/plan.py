"""What an OpenVINO engine file is: the candidate's ONNX, marked with the arithmetic and the shapes it is compiled for.

OpenVINO's own compiled blobs do not keep the arithmetic (a blob of an FP32 network came back in bfloat16), and its
default on processors with AMX or AVX-512 BF16 is bfloat16. So the file says it, in a metadata entry of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from edgeship.config import Precision
from edgeship.engines.onnx_file import opened_bytes, read_metadata, tensors_of, with_metadata
from edgeship.errors import ArtifactError
from edgeship.results import TensorInfo

KEY = "edgeship.openvino"
Shape = tuple[int, ...]
HINTS: dict[Precision, str] = {
    "fp32": "f32",
    "bf16": "bf16",
    "fp16": "f16",
    "int8": "f32",
    "int8-fp32": "f32",
    "int8-fp16": "f16",
}
"""Precision → OpenVINO's name for the arithmetic of everything that is not quantized."""
CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}
"""Arithmetic → what a device lists among its OPTIMIZATION_CAPABILITIES where it has kernels for it."""


@dataclass(frozen=True)
class EnginePlan:
    """How an engine file is compiled.

    ``shapes`` are those that are timed and shipped: a network of its own is compiled for them, whose sizes are fixed.
    ``dynamic``: another one is compiled beside it for all other sizes.
    """

    arithmetic: str = "f32"
    shapes: dict[str, Shape] = field(default_factory=dict)
    dynamic: bool = True


@dataclass(frozen=True)
class EngineFile:
    """An engine file in memory: plan, inputs and outputs as the ONNX names them."""

    data: bytes
    plan: EnginePlan
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def marked(data: bytes, plan: EnginePlan) -> bytes:
    """The bytes of an ONNX file with its plan."""
    text = {"arithmetic": plan.arithmetic, "shapes": plan.shapes, "dynamic": plan.dynamic}
    return with_metadata(data, KEY, json.dumps(text, sort_keys=True))


def read_file(data: bytes, name: str) -> EngineFile:
    """Read an engine file. One without a mark is an ONNX file: FP32, every size.

    Raises:
        ModelError: Not an ONNX file.
        ArtifactError: The mark is damaged.
    """
    with opened_bytes(data, name) as model:
        inputs, outputs = tensors_of(model, name)
        text = read_metadata(model).get(KEY)
    return EngineFile(data, EnginePlan() if text is None else _plan(text, name, inputs), inputs, outputs)


def _plan(text: str, name: str, inputs: tuple[TensorInfo, ...]) -> EnginePlan:
    try:
        values = json.loads(text)
        shapes = {key: tuple(int(axis) for axis in values["shapes"][key]) for key in values["shapes"]}
        plan = EnginePlan(str(values["arithmetic"]), shapes, bool(values["dynamic"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(name, f"holds {text[:120]!r}") from None
    known = {info.name for info in inputs}
    sizes = [axis for shape in shapes.values() for axis in shape]
    if plan.arithmetic not in HINTS.values() or set(shapes) != known or min(sizes, default=1) < 1:
        raise _damaged(name, f"says {text[:120]!r}, and the inputs are {', '.join(sorted(known))}")
    return plan


def _damaged(name: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"the mark of the OpenVINO engine {name} {what}",
        expected="arithmetic (f32, bf16, f16), a shape for every input, dynamic",
        do="build it again: edgeship build MODEL.onnx --engine openvino",
    )
