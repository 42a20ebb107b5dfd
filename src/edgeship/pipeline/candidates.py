"""The candidates of a config, the precision that each asks of a target, and the sizes that a target builds for."""

from __future__ import annotations

from collections.abc import Iterable

from edgeship.config import Config, Precision, Preprocess, Qat, ShapeRange, Target, takes_tensorrt_graphs
from edgeship.data.feeds import full_shapes, known_shapes
from edgeship.engines import processor
from edgeship.engines.onnx_file import ONE_FILE
from edgeship.errors import ConfigError
from edgeship.prepare.inferred_graph import QUANTIZED
from edgeship.prepare.quantized_tensors import Style
from edgeship.results import Candidate, Identity, TensorInfo

FP32 = Candidate(name="fp32", precision="fp32")


def candidates(config: Config) -> tuple[Candidate, ...]:
    """The candidates that the config names, in its order."""
    keep = config.quantization.keep
    kept = {"fp32": (), "as-given": (), "fp16": config.candidates.keep_fp32, "bf16": ()}
    named = [
        Candidate(name=item, precision=item, keep=kept.get(item, keep))
        for item in dict.fromkeys(config.candidates.precisions)
    ]
    if config.candidates.keep:
        named.append(Candidate(name="int8-keep", precision="int8", keep=(*keep, *config.candidates.keep)))
    named += [repaired_candidate(entry, keep) for entry in dict.fromkeys(config.candidates.repair)]
    if config.qat is not None:
        named.append(trained_candidate(config.qat, keep))
    return tuple(named)


def trained_candidate(qat: Qat, keep: tuple[str, ...]) -> Candidate:
    """INT8 with the weights and ranges that training leaves; ``keep`` is that of all INT8 candidates."""
    return Candidate(name="int8-qat", precision="int8", keep=(*keep, *qat.keep), trained=True)


def repaired_candidate(entry: str, keep: tuple[str, ...]) -> Candidate:
    """INT8 with the weights and ranges that the steps of ``candidates.repair`` leave, such as ``int8-equalize``."""
    return Candidate(name=f"int8-{entry}", precision="int8", keep=keep, repair=tuple(entry.split("+")))


GRID_BOUND = frozenset(("adaround", "bias-correct"))
"""Repairs that choose weights and biases for steps of 8 bits: with 7 their choice is lost."""


def with_reduced_range(
    config: Config, candidate: Candidate, target: Target, built: Identity | None
) -> Candidate | None:
    """The candidate with weights of 7 bits that is tried beside an INT8 one; None: none is.

    Args:
        built: What the INT8 engine is bound to; None where none was built.
    """
    on_a_grid = candidate.trained or GRID_BOUND & set(candidate.repair)
    if on_a_grid or candidate.precision not in ("int8", "int8-fp32"):
        return None
    if (target.engine, target.device) != ("onnxruntime", "cpu"):
        return None
    wanted = config.candidates.reduced_range
    if wanted is None:
        wanted = built is not None and processor.saturates(built.instruction_sets, built.platform.split("-")[0])
    if not wanted:
        return None
    return candidate.model_copy(update={"name": f"{candidate.name}-reduced-range", "reduced_range": True})


def rescued(candidate: Candidate, keep: tuple[str, ...]) -> Candidate | None:
    """FP16 with the nodes in FP32 that rescue it, tried beside plain FP16; None where nothing needs to be rescued."""
    if candidate.precision != "fp16" or not keep:
        return None
    return candidate.model_copy(update={"name": f"{candidate.name}-keep", "keep": keep})


def may_be_tuned(config: Config, candidate: Candidate, target: Target) -> bool:
    """Whether ModelOpt's autotune chooses what stays in float beside this candidate: plain INT8 on TensorRT here."""
    plain = candidate.name == "int8" and not (candidate.trained or candidate.repair)
    here = target.engine == "tensorrt" and target.host is None
    return config.candidates.autotune_s is not None and plain and here


def tuned(candidate: Candidate, keep: tuple[str, ...], products: int) -> Candidate | None:
    """INT8 with what autotune left in float kept there; None where that is nothing, or everything."""
    if not keep or len(keep) >= products:
        return None
    return candidate.model_copy(update={"name": f"{candidate.name}-autotune", "keep": (*candidate.keep, *keep)})


def needs_calibration(candidate: Candidate) -> bool:
    """Whether the candidate rests on INT8 ranges."""
    return candidate.precision not in ("fp32", "fp16", "bf16", "as-given")


def converted(candidate: Candidate) -> bool:
    """Whether a stage converts the simplified graph for the candidate; else it is built from that graph itself."""
    return candidate.precision not in ("fp32", "bf16", "implicit", "as-given")


def require_possible(config: Config, operators: Iterable[str], model: str) -> None:
    """Refuse to quantize a model that is quantized already, or to call it FP32.

    Args:
        operators: The kinds of nodes in the simplified graph.

    Raises:
        ConfigError: Names the candidates that cannot be, and the one that can.
    """
    found = sorted(QUANTIZED.intersection(operators))
    asked = [candidate.name for candidate in candidates(config)]
    if found and (config.candidates.search or asked != ["as-given"]):
        raise ConfigError(
            [
                f"candidates: {', '.join(asked)}: {model} is quantized already (it holds {', '.join(found)}) and is "
                'neither called FP32 nor quantized twice; write precisions = ["as-given"], search = false'
            ],
            where=str(config.file),
        )
    if not found and "as-given" in asked:
        raise ConfigError(
            [f"candidates.precisions: as-given is for models that are quantized already; {model} is not: write fp32"],
            where=str(config.file),
        )


def require_one_file(config: Config, weights: int) -> None:
    """Refuse a model whose FP32 reference is no engine of a target's, before anything long begins.

    Args:
        weights: Bytes of the weights that lie in a file beside the simplified graph.

    Raises:
        ConfigError: Names the targets.
    """
    asked = [name for name, target in config.all_targets().items() if target.engine == "onnxruntime"]
    if weights > ONE_FILE and asked:
        raise ConfigError(
            [
                f"targets: {', '.join(asked)}: the model has {weights / 2**30:.1f} GiB of weights, and an engine of "
                "onnxruntime is one ONNX file, which holds 2 GiB: FP32, which every candidate is compared with, cannot "
                "be tried there"
            ],
            where=str(config.file),
            do="take engine = 'tensorrt', whose engines may be larger; edgeship build makes an INT8 engine of "
            "onnxruntime without a verdict",
        )


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


def resolved_precision(precision: Precision, target: Target, *, half: bool = False) -> Precision:
    """``int8`` by the engine's usual companion: FP16 beside it on TensorRT, FP32 on the engines of a processor;
    ``as-given`` by the type of its other weights (``half``: FP16)."""
    if precision == "as-given":
        return "int8-fp16" if half else "int8-fp32"
    if precision == "int8":
        return "int8-fp16" if takes_tensorrt_graphs(target.engine) else "int8-fp32"
    return precision


def style_of(target: Target) -> Style:
    """Which placement of Q/DQ pairs the graphs for a target have."""
    return "tensorrt" if takes_tensorrt_graphs(target.engine) else "onnxruntime"
