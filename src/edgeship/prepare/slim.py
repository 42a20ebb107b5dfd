"""Simplify a graph with onnxslim; check it before and after, and compare its answers with the original's."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import MissingExtra, ModelError, StageError
from edgeship.prepare import graph, large
from edgeship.prepare.adopt import adopt, equal
from edgeship.prepare.batch import FrozenBatch, free_batch, trial_feeds
from edgeship.prepare.child import in_child
from edgeship.prepare.inputs import NOTHING, Known
from edgeship.prepare.running import Room, Running
from edgeship.prepare.structure import structure_hash
from edgeship.results import Artifact, Slimmed

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

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
    with ExitStack() as stack:
        room = Room.beside(target, before, stack)
        running = room.open(before)
        try:
            feeds = trial_feeds(before, options.known, running)
        except FrozenBatch as frozen:
            freed = free_batch(before, frozen.batch, options.known) if options.free_batch else None
            if freed is None:
                raise
            before, count = freed
            notes.append(f"{graph.count(count, 'Reshape')} held a batch of {frozen.batch} and keep the given one now")
            running = room.open(before)
            feeds = trial_feeds(before, options.known, running)
        answers = running.run([info.name for info in graph.outputs_of(before)], feeds)
        del running
        notes += correct_outputs(before, answers)
        before = after = room.light(before)
        difference = None
        try:
            simplified = _simplified(before, room)
            difference = _difference(answers, room.open(simplified), feeds)
            after = simplified
        except (ModelError, StageError) as error:
            notes.append(f"the graph goes on as it is, not simplified: {error.found}")
        graph.save_onnx(after, target, room.folder)
    return Slimmed(
        model=Artifact.of(target, target.parent),
        inputs=graph.inputs_of(after),
        outputs=graph.outputs_of(after),
        nodes_before=len(before.graph.node),
        nodes_after=len(after.graph.node),
        operators=graph.operators_of(after),
        structure=structure_hash(after),
        max_difference=difference,
        notes=tuple(notes),
    )


def correct_outputs(model: onnx.ModelProto, answers: Sequence[NDArray[Any]]) -> list[str]:
    """Drop declared sizes of outputs that a real run contradicts, where shape inference could not tell.

    Returns:
        A note that names them.
    """
    wrong = []
    for value, answer in zip(model.graph.output, answers, strict=True):
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


def _simplified(before: onnx.ModelProto, room: Room) -> onnx.ModelProto:
    """onnxslim's graph, with the interface and the exporter's notes of the one before.

    Raises:
        MissingExtra: onnxslim is not installed.
        StageError: onnxslim fails.
        ModelError: What it made is not a valid graph.
    """
    import onnx

    if room.folder is None:
        copy = onnx.ModelProto()
        copy.CopyFrom(before)
        after = _onnxslim(copy)
    else:
        after = onnx.ModelProto.FromString(in_child(_onnxslim_in, str(room.folder), before.SerializeToString()))
    _restore_interface(before, after)
    graph.copy_metadata(before, after)
    graph.check_onnx(after, "what onnxslim made")
    return after


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxslim makes of a graph, which it may change."""
    try:
        import onnxslim
    except ImportError:
        raise MissingExtra("simplifying a graph", "onnxslim", "host") from None
    try:
        made: onnx.ModelProto = onnxslim.slim(model, skip_optimizations=_too_long(model))
    except Exception as error:  # its patterns rewrite any graph and raise whatever they meet
        raise StageError(f"onnxslim {onnxslim.__version__}: {type(error).__name__}: {graph.one_line(error)}") from error
    return made


def _onnxslim_in(folder: str, data: bytes) -> bytes:
    """The same for a graph whose weights lie in files in ``folder``: onnxslim looks for them where the process works.

    What is returned holds those weights alone that were made anew; the others stay where they are.
    """
    import onnx

    os.chdir(folder)
    made = _onnxslim(onnx.ModelProto.FromString(data))
    for tensor in made.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("raw_data" if tensor.external_data else "data_location")
    if large.too_large(made):
        raise StageError("the constants that onnxslim folded take more than 2 GiB")
    return bytes(made.SerializeToString())


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


def _difference(wanted: Sequence[NDArray[Any]], after: Running, feeds: Feeds) -> float:
    """The largest difference of any output. Raises StageError beyond the tolerance."""
    names = [item.name for item in after.session.get_outputs()]
    worst = 0.0
    for name, a, b in zip(names, wanted, after.run(names, feeds), strict=True):
        if not equal(a, b, TOLERANCE):
            raise StageError(f"onnxslim changed the output {name!r} by more than rtol = atol = {TOLERANCE}")
        if a.size and a.dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # infinity in both is equal, and was compared above
                off = np.abs(a.astype(np.float64) - b.astype(np.float64))
            worst = max(worst, float(np.max(off, initial=0.0, where=np.isfinite(off))))
    return worst
