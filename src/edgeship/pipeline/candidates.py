"""The candidates of a config, the precision that each asks of a target, and the sizes that a target builds for."""

from __future__ import annotations

from edgeship.config import Config, Precision, Preprocess, ShapeRange, Target
from edgeship.data.feeds import full_shapes, known_shapes
from edgeship.prepare.quantized_tensors import Style
from edgeship.results import Candidate, TensorInfo

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


def sized(target: Target, inputs: tuple[TensorInfo, ...], preprocess: Preprocess | None) -> Target:
    """The target with a range for every input that has dynamic axes beside the batch.

    Their sizes are those of ``preprocess.size``, which calibration, evaluation and the vehicle use too; ranges that
    the config gives stay as they are.

    Raises:
        DataError: Neither tells the size of an axis.
    """
    loose = [
        info.name
        for info in inputs
        if info.name not in target.shapes and any(isinstance(axis, str) for axis in info.shape[1:])
    ]
    if not loose:
        return target
    known = known_shapes(inputs, preprocess, {name: given.opt for name, given in target.shapes.items()})
    batch = target.batch
    low, best, high = (full_shapes(inputs, rows, known) for rows in (batch.min, batch.opt, batch.max))
    ranges = {name: ShapeRange(min=low[name], opt=best[name], max=high[name]) for name in loose}
    return target.model_copy(update={"shapes": target.shapes | ranges})


def resolved_precision(precision: Precision, target: Target) -> Precision:
    """``int8`` by the engine's usual companion: FP16 beside it on TensorRT, FP32 on onnxruntime."""
    if precision == "int8":
        return "int8-fp32" if target.engine == "onnxruntime" else "int8-fp16"
    return precision


def style_of(target: Target) -> Style:
    """Which placement of Q/DQ pairs the graphs for a target have."""
    return "onnxruntime" if target.engine == "onnxruntime" else "tensorrt"
