"""The candidates of a config and the precision that each asks of a target."""

from __future__ import annotations

from edgeship.config import Config, Precision, Target
from edgeship.prepare.quantized_tensors import Style
from edgeship.results import Candidate

FP32 = Candidate(name="fp32", precision="fp32")


def candidates(config: Config) -> tuple[Candidate, ...]:
    """The candidates that the config names, in its order."""
    keep = config.quantization.keep
    kept = {"fp32": (), "fp16": config.candidates.keep_fp32}
    named = [
        Candidate(name=item, precision=item, keep=kept.get(item, keep))
        for item in dict.fromkeys(config.candidates.precisions)
    ]
    if config.candidates.keep:
        named.append(Candidate(name="int8-keep", precision="int8", keep=(*keep, *config.candidates.keep)))
    return tuple(named)


def needs_calibration(candidate: Candidate) -> bool:
    """Whether the candidate rests on INT8 ranges."""
    return candidate.precision not in ("fp32", "fp16")


def resolved_precision(precision: Precision, target: Target) -> Precision:
    """``int8`` by the engine's usual companion: FP16 beside it on TensorRT, FP32 on onnxruntime."""
    if precision == "int8":
        return "int8-fp32" if target.engine == "onnxruntime" else "int8-fp16"
    return precision


def style_of(target: Target) -> Style:
    """Which placement of Q/DQ pairs the graphs for a target have."""
    return "onnxruntime" if target.engine == "onnxruntime" else "tensorrt"
