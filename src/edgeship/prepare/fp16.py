"""FP16 graphs: ModelOpt AutoCast, which looks at real frames to leave in FP32 what FP16 cannot hold."""

from __future__ import annotations

import itertools
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError, QuantizeError
from edgeship.prepare import compare, fp16_rescue, graph, modelopt
from edgeship.prepare.fp16_rounding import rounded_twin
from edgeship.prepare.inferred_graph import infer, require_float, select
from edgeship.prepare.quantized_tensors import float_tensors
from edgeship.results import Artifact, Quantized

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

FRAMES = 4
"""Batches on which AutoCast looks for values that FP16 cannot hold."""


def to_half(
    model: Path,
    frames: Iterable[FrameBatch],
    out: Path,
    keep: tuple[str, ...] = (),
    allow_noise: tuple[str, ...] = (),
) -> Quantized:
    """Write an FP16 copy of a graph; its inputs and outputs stay FP32.

    Args:
        model: The FP32 ONNX file.
        frames: Real frames; the first few decide what must stay in FP32, and check the result.
        keep: Node names or patterns that stay in FP32 on request.
        allow_noise: Outputs that may fall below 10 dB.

    Raises:
        DataError: No frames.
        ModelError: The model is not FP32.
        QuantizeError: AutoCast failed, or an output is noise on the frames.
    """
    loaded = graph.load_onnx(model)
    require_float(loaded, model.name)
    reference = infer(loaded, given=True)
    kept = select(reference, keep)
    few = list(itertools.islice(frames, FRAMES))
    if not few:
        raise DataError("no frames to convert to FP16 with", expected="a few real frames", do="give --images or --npz")
    with tempfile.TemporaryDirectory(prefix="edgeship-half-") as folder:
        converter = _Converter(reference, few, Path(folder))
        found = converter.attempt(kept)
        rescue = None
        if found.db < fp16_rescue.GOAL_DB:
            rescue = fp16_rescue.rescue(reference, few, kept, lambda keep: converter.attempt(keep).db)
    compared, converted = _require_signal(found, rescue, allow_noise), found.graph
    graph.save_onnx(converted, out)
    return Quantized(
        model=Artifact.of(out, out.parent),
        precision="fp16",
        style="plain",
        kept=kept,
        left=tuple(sorted(set(single_nodes(reference, converted)) - set(kept))),
        noise=compared.layers,
        output_snr_db=compared.outputs,
        noisy=compared.noisy,
        rescue=rescue.keep if rescue is not None else (),
        notes=(*compared.notes, *([_advice(rescue)] if rescue is not None else ())),
    )


@dataclass(frozen=True)
class _Attempt:
    """A converted graph and its comparison with the reference, or why there is none."""

    graph: onnx.ModelProto
    compared: compare.Comparison | None
    failure: QuantizeError

    @property
    def db(self) -> float:
        """Signal-to-noise of the worst output."""
        return -compare.CEILING_DB if self.compared is None else self.compared.output_snr_db


class _Converter:
    """Converts a graph with some nodes kept in FP32, and compares it on a few frames, rounded as a GPU rounds."""

    def __init__(self, reference: onnx.ModelProto, frames: Sequence[FrameBatch], folder: Path) -> None:
        self._reference, self._frames, self._folder = reference, frames, folder
        for index, (_, feeds) in enumerate(frames):
            arrays: dict[str, Any] = dict(feeds)
            np.savez(folder / f"{index:04d}.npz", **arrays)

    def attempt(self, kept: tuple[str, ...]) -> _Attempt:
        """The graph with these nodes kept. Raises QuantizeError where AutoCast cannot convert it."""
        converted = modelopt.autocast(self._reference, self._folder, kept)
        graph.check_onnx(converted, "the FP16 graph")
        try:
            compared = compare.compare(self._reference, rounded_twin(converted), self._frames, optimize=False)
            return _Attempt(converted, compared, QuantizeError(""))
        except QuantizeError as error:
            return _Attempt(converted, None, error)


def _require_signal(
    found: _Attempt, rescue: fp16_rescue.Rescue | None, allow_noise: tuple[str, ...]
) -> compare.Comparison:
    """The comparison. Raises QuantizeError, with the nodes of the rescue, where there is none or an output is noise."""
    advice = _advice(rescue) if rescue is not None else None
    try:
        if found.compared is None:
            raise QuantizeError(found.failure.found, expected=found.failure.expected, do=advice or found.failure.do)
        compare.require_signal(found.compared, allow_noise, "fp16", advice)
    except QuantizeError as error:
        error.rescue = rescue.keep if rescue is not None else ()
        raise
    return found.compared


def _advice(found: fp16_rescue.Rescue) -> str:
    """The nodes to keep, as the command line takes them."""
    flags = " ".join(f"--keep {shlex.quote(name)}" for name in found.keep)
    return (
        f"with {len(found.keep)} nodes in FP32 it reaches {found.output_snr_db:.1f} dB: "
        f"edgeship quantize --precision fp16 {flags} (candidates.keep_fp32)"
    )


def single_nodes(reference: onnx.ModelProto, converted: onnx.ModelProto) -> list[str]:
    """Nodes of the reference that compute on float32 in the converted graph."""
    import onnx

    floats = float_tensors(reference)
    inferred = graph.inferred(converted)
    single = {
        value.name
        for value in [*inferred.graph.value_info, *inferred.graph.input]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    own = {node.name for node in reference.graph.node if floats.intersection(node.input)}
    return [node.name for node in inferred.graph.node if node.name in own and single.intersection(node.input)]
