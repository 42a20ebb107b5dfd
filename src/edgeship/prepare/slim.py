"""Simplify a graph with onnxslim; check it before and after, and compare its answers with the original's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import MissingExtra, ModelError, StageError
from edgeship.prepare import graph
from edgeship.prepare.adopt import adopt, equal
from edgeship.prepare.batch import FrozenBatch, free_batch, trial_feeds
from edgeship.prepare.inputs import NOTHING, Known
from edgeship.prepare.running import Running
from edgeship.results import Artifact, Slimmed

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.batch import Feeds

TOLERANCE = 1e-4
MANY = 200
"""Constants of one shape beyond which equal ones are not looked for: the time grows with the square."""


@dataclass(frozen=True)
class Options:
    """How to simplify.

    ``known`` is what is known of the inputs, for the runs that compare. ``free_batch``: where the graph declares a
    dynamic batch and Reshapes inside hold one size, let them keep the batch that they are given.
    """

    known: Known = NOTHING
    free_batch: bool = False


def slim(source: Path, target: Path, options: Options = Options()) -> Slimmed:
    """Write a simplified copy of an ONNX file.

    Names and shapes of inputs and outputs stay, and the answers too, within ``rtol = atol = 1e-4`` (folding constants
    changes the order of float32 sums). Where onnxslim fails or changes the answers, the graph goes on as it is, and a
    note says so.

    Raises:
        ModelError: The graph is not valid, does not run, or does not serve the batch that it declares.
        MissingExtra: onnxslim is not installed.
    """
    before, notes = adopt(source, options.known)
    try:
        feeds = trial_feeds(before, options.known)
    except FrozenBatch as frozen:
        freed = free_batch(before, frozen.batch, options.known) if options.free_batch else None
        if freed is None:
            raise
        before, count = freed
        notes.append(f"{graph.count(count, 'Reshape')} held a batch of {frozen.batch} and keep the given one now")
        feeds = trial_feeds(before, options.known)
    notes += correct_outputs(before, feeds)
    nodes = len(before.graph.node)
    after, difference = before, None
    try:
        simplified = _simplified(before)
        difference = _difference(before, simplified, feeds)
        after = simplified
    except (ModelError, StageError) as error:
        notes.append(f"the graph goes on as it is, not simplified: {error.found}")
    graph.save_onnx(after, target)
    return Slimmed(
        model=Artifact.of(target, target.parent),
        inputs=graph.inputs_of(after),
        outputs=graph.outputs_of(after),
        nodes_before=nodes,
        nodes_after=len(after.graph.node),
        operators=graph.operators_of(after),
        max_difference=difference,
        notes=tuple(notes),
    )


def correct_outputs(model: onnx.ModelProto, feeds: Feeds) -> list[str]:
    """Drop declared sizes of outputs that a real run contradicts, where shape inference could not tell.

    Returns:
        A note that names them.
    """
    names = [info.name for info in graph.outputs_of(model)]
    wrong = []
    for value, answer in zip(model.graph.output, Running(model, optimize=False).run(names, feeds), strict=True):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != answer.ndim:
            wrong.append(value.name)
            del dims[:]
            for _ in range(answer.ndim):
                dims.add()
            continue
        off = [dim for dim, size in zip(dims, answer.shape, strict=True) if 0 < dim.dim_value != size]
        for dim in off:
            dim.Clear()
        wrong += [value.name] if off else []
    return [f"declared shapes of outputs that a run contradicts were dropped: {', '.join(wrong)}"] if wrong else []


def _simplified(before: onnx.ModelProto) -> onnx.ModelProto:
    """onnxslim's graph, with the interface and the exporter's notes of the one before.

    Raises:
        MissingExtra: onnxslim is not installed.
        StageError: onnxslim fails.
        ModelError: What it made is not a valid graph.
    """
    try:
        import onnxslim
    except ImportError:
        raise MissingExtra("simplifying a graph", "onnxslim", "host") from None
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(before)
    try:
        after: onnx.ModelProto = onnxslim.slim(copy, skip_optimizations=_too_long(before))
    except Exception as error:  # its patterns rewrite any graph and raise whatever they meet
        raise StageError(f"onnxslim {onnxslim.__version__}: {type(error).__name__}: {graph.one_line(error)}") from error
    _restore_interface(before, after)
    graph.copy_metadata(before, after)
    graph.check_onnx(after, "what onnxslim made")
    return after


def _too_long(model: onnx.ModelProto) -> list[str]:
    """What onnxslim leaves out: it compares small constants of one shape in pairs, minutes for a thousand of them."""
    alike = Counter(tuple(item.dims) for item in model.graph.initializer)
    return ["weight_tying"] if max(alike.values(), default=0) > MANY else []


def _restore_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Put the declared inputs and outputs back, unused inputs and constant outputs among them, in their order."""
    for old, new in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        del new[:]
        new.extend(old)
    made = {name for node in after.graph.node for name in node.output}
    made |= {tensor.name for tensor in after.graph.initializer} | {value.name for value in after.graph.input}
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    for value in after.graph.output:
        if value.name not in made and value.name in constants:
            after.graph.initializer.append(constants[value.name])


def _difference(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds) -> float:
    """The largest difference of any output. Raises StageError beyond the tolerance."""
    names = [item.name for item in graph.outputs_of(before)]
    worst = 0.0
    for name, a, b in zip(names, Running(before).run(names, feeds), Running(after).run(names, feeds), strict=True):
        if not equal(a, b, TOLERANCE):
            raise StageError(f"onnxslim changed the output {name!r} by more than rtol = atol = {TOLERANCE}")
        if a.size and a.dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # infinity in both is equal, and was compared above
                off = np.abs(a.astype(np.float64) - b.astype(np.float64))
            worst = max(worst, float(np.max(off, initial=0.0, where=np.isfinite(off))))
    return worst
