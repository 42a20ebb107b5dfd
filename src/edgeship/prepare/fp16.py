"""FP16 graphs: ModelOpt AutoCast, which looks at real frames to leave in FP32 what FP16 cannot hold."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DataError
from edgeship.prepare import compare, graph, modelopt
from edgeship.prepare.inferred_graph import infer, select
from edgeship.prepare.quantized_tensors import float_tensors
from edgeship.results import Artifact, Quantized

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

FRAMES = 4
"""Batches on which AutoCast looks for values that FP16 cannot hold."""


def to_half(model: Path, frames: Iterable[FrameBatch], out: Path, keep: tuple[str, ...] = ()) -> Quantized:
    """Write an FP16 copy of a graph; its inputs and outputs stay FP32.

    Args:
        model: The FP32 ONNX file.
        frames: Real frames; the first few decide what must stay in FP32, and check the result.
        keep: Node names or patterns that stay in FP32 on request.

    Raises:
        DataError: No frames.
        StageError: AutoCast failed, or the result is not finite on the frames.
    """
    reference = infer(graph.load_onnx(model))
    kept = select(reference, keep)
    few = list(itertools.islice(frames, FRAMES))
    if not few:
        raise DataError("no frames to convert to FP16 with", expected="a few real frames", do="give --images or --npz")
    with tempfile.TemporaryDirectory(prefix="edgeship-frames-") as folder:
        for index, (_, feeds) in enumerate(few):
            arrays: dict[str, Any] = dict(feeds)
            np.savez(Path(folder) / f"{index:04d}.npz", **arrays)
        converted = modelopt.autocast(reference, Path(folder), kept)
    graph.check_onnx(converted, "the FP16 graph")
    compared = compare.compare(reference, converted, few)
    graph.save_onnx(converted, out)
    return Quantized(
        model=Artifact.of(out, out.parent),
        precision="fp16",
        style="plain",
        kept=kept,
        left=tuple(sorted(set(single_nodes(reference, converted)) - set(kept))),
        noise=compared.layers,
        output_snr_db=compared.outputs,
    )


def single_nodes(reference: onnx.ModelProto, converted: onnx.ModelProto) -> list[str]:
    """Nodes of the reference that compute on float32 in the converted graph."""
    import onnx

    floats = float_tensors(reference)
    inferred = onnx.shape_inference.infer_shapes(converted)
    single = {
        value.name
        for value in [*inferred.graph.value_info, *inferred.graph.input]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    own = {node.name for node in reference.graph.node if floats.intersection(node.input)}
    return [node.name for node in inferred.graph.node if node.name in own and single.intersection(node.input)]
