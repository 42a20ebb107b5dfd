"""Whether a graph serves the batch that it declares, and freeing a batch that its Reshapes hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.feeds import noise
from edgeship.errors import ModelError
from edgeship.prepare import graph
from edgeship.prepare.inputs import NOTHING, Known, accepted_feeds
from edgeship.prepare.running import RunError, Running

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Feeds = Mapping[str, NDArray[Any]]

ROWS = 2
"""Rows of seeded inputs where the batch is dynamic. One row would hide a batch that is frozen at 1."""
TRIED = (1, 4, 8, 16, 32, 64)
"""Batches at which a graph may be frozen that does not serve two rows."""
TOLERANCE = 1e-3
OPTION = "edgeship slim --free-batch, or free_batch = true in [model]"


class FrozenBatch(ModelError):
    """A graph declares a dynamic batch and runs with one size of it alone.

    ``batch`` is that size; ``refused`` the error at another one.
    """

    def __init__(self, model: onnx.ModelProto, batch: int, refused: RunError, repairs: int) -> None:
        self.batch, self.refused = batch, refused
        info = next(info for info in graph.inputs_of(model) if info.shape and isinstance(info.shape[0], str))
        node = next((node for node in model.graph.node if node.name == refused.node), None)
        where = graph.place(node) if node is not None else ""
        fixed = ",".join(map(str, (batch, *info.shape[1:])))
        remedies = [
            "use x.shape[0] or -1 instead of a number in the model's view or reshape, and export it again",
            f"or declare the batch that it serves: edgeship export MODEL --input {info.name}={fixed}",
        ]
        if repairs:
            remedies.insert(
                0,
                f"{OPTION}: its {graph.count(repairs, 'Reshape')} can keep the batch of what they are given "
                "(tried: the answers are equal row by row); or",
            )
        super().__init__(
            f"input {info.name!r} declares a dynamic batch {info.shape[0]!r}, and the graph runs with a batch of "
            f"{batch} alone: {refused.operator or 'a node'} {refused.node!r}{f' (from {where})' if where else ''} "
            f"fails with another: {refused.words[:200]}",
            expected="a graph that runs with every batch it declares",
            do="; ".join(remedies).replace("or; ", "or "),
        )


def trial_feeds(model: onnx.ModelProto, known: Known = NOTHING, running: Running | None = None) -> Feeds:
    """Feeds for comparing the graph with an edited one: the real ones where there are some, else seeded noise.

    A dynamic batch is tried with two and with three rows.

    Args:
        running: The graph, open as it stands.

    Raises:
        FrozenBatch: The declared batch is dynamic, and the graph runs with one size of it alone.
        ModelError: It runs with no size that was tried, or an input's value cannot be made up.
    """
    if known.feeds is not None:
        return known.feeds
    running = running or Running(model, optimize=False)
    inputs = graph.inputs_of(model)
    if not any(info.shape and isinstance(info.shape[0], str) for info in inputs):
        return accepted_feeds(model, running, 1, known)[0]
    try:
        feeds = accepted_feeds(model, running, ROWS, known)[0]
        more = _with_rows(model, feeds, ROWS + 1, known)
        outputs = [info.name for info in graph.outputs_of(model)]
        few, many = running.run(outputs, feeds), running.run(outputs, more)
    except RunError as error:
        batch = _served(model, running, known)
        raise FrozenBatch(model, batch, error, _repairs(model, batch, known)) from None
    if few and all(one.shape == other.shape for one, other in zip(few, many, strict=True)):
        raise _mixed(model, feeds, more)
    return feeds


def _mixed(model: onnx.ModelProto, feeds: Feeds, more: Feeds) -> ModelError:
    """The graph takes every batch and gives one answer: the error that names the node where the frames meet."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    declared = {value.name for value in exposed.graph.output}
    made = [name for node in model.graph.node for name in node.output[:1] if name and name not in declared]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    names = [*made, *declared]
    running = Running(exposed, optimize=False)
    shapes = [{name: array.shape for name, array in each.items()} for each in (feeds, more)]
    for found, given in zip(shapes, (feeds, more), strict=True):
        found.update((name, np.shape(value)) for name, value in zip(names, running.run(names, given), strict=True))

    def grows(name: str) -> bool:
        return name in shapes[0] and shapes[0][name] != shapes[1][name]

    where = ""
    for node in model.graph.node:
        met = any(map(grows, node.input)) and not any(map(grows, node.output))
        if met and node.op_type not in ("Shape", "Size"):
            place = graph.place(node)
            where = f": the frames meet in {node.op_type} {node.name or node.output[0]!r}"
            where += f" (from {place})" if place else ""
            break
    return ModelError(
        f"the graph takes every batch and gives one answer of the same shape{where}",
        expected="an answer for each frame of a batch",
        do="use x.shape[0] instead of a number in that reshape, and take no mean over the batch; or, if the first axis "
        "is not a batch, give it a number in [model.inputs]",
    )


def _with_rows(model: onnx.ModelProto, feeds: Feeds, rows: int, known: Known) -> Feeds:
    """Feeds of the same sizes with another number of rows."""
    inputs = graph.inputs_of(model)
    shapes = {
        info.name: (rows, *feeds[info.name].shape[1:])
        if info.shape and isinstance(info.shape[0], str)
        else feeds[info.name].shape
        for info in inputs
    }
    return noise(inputs, shapes, 0, known.bounds)


def _served(model: onnx.ModelProto, running: Running, known: Known) -> int:
    """The one batch that the graph runs with. Raises RunError where there is none."""
    last: RunError | None = None
    for batch in (ROWS, *TRIED):
        try:
            accepted_feeds(model, running, batch, known)
        except RunError as error:
            last = last or error
        else:
            return batch
    assert last is not None
    raise last


def _repairs(model: onnx.ModelProto, batch: int, known: Known) -> int:
    """How many Reshapes :func:`free_batch` would change; 0 where that does not help."""
    freed = free_batch(model, batch, known)
    return freed[1] if freed is not None else 0


def free_batch(model: onnx.ModelProto, batch: int, known: Known = NOTHING) -> tuple[onnx.ModelProto, int] | None:
    """The graph with Reshapes that keep the batch they are given, instead of ``batch``.

    Returns:
        The changed graph and how many Reshapes were changed; None where the result does not run with other batches, or
        answers otherwise than the original row by row.
    """
    for first in (0, -1):
        changed, count = _with_free_reshapes(model, batch, first)
        if count and _same_rows(model, changed, batch, known):
            return changed, count
    return None


def _with_free_reshapes(model: onnx.ModelProto, batch: int, first: int) -> tuple[onnx.ModelProto, int]:
    import onnx
    from onnx import numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = graph.constants_of(changed)
    moving = _depending(changed)
    count = 0
    for node in changed.graph.node:
        if node.op_type != "Reshape" or node.input[0] not in moving or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if not shape.size or shape[0] != batch or (first == -1 and -1 in shape[1:]):
            continue
        shape[0] = first
        node.input[1] = f"{node.output[0]}_free_shape"
        changed.graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))
        for attribute in [item for item in node.attribute if item.name == "allowzero"]:
            node.attribute.remove(attribute)
        count += 1
    if count:
        _infer_outputs(changed)
    return changed, count


def _infer_outputs(model: onnx.ModelProto) -> None:
    """Declare the outputs with the shapes that follow from the inputs."""
    inferred = graph.inferred(model, declared=False)
    shapes = {value.name: value.type.tensor_type.shape for value in inferred.graph.output}
    for value in model.graph.output:
        value.type.tensor_type.shape.CopyFrom(shapes[value.name])
    del model.graph.value_info[:]


def _depending(model: onnx.ModelProto) -> set[str]:
    """The tensors whose values depend on an input of the graph."""
    moving = {info.name for info in graph.inputs_of(model)}
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and any(name in moving for name in node.input):
            moving.update(name for name in node.output if name)
    return moving


def _same_rows(model: onnx.ModelProto, changed: onnx.ModelProto, batch: int, known: Known) -> bool:
    """Whether the changed graph answers two batches at once as the original answers one after the other."""
    try:
        before, after = Running(model), Running(changed, optimize=False)
        feeds = accepted_feeds(changed, after, 2 * batch, known)[0]
        outputs = [info.name for info in graph.outputs_of(model)]
        after.run(outputs, _with_rows(changed, feeds, 3 * batch, known))
        together = after.run(outputs, feeds)
        moving = {info.name for info in graph.inputs_of(model) if info.shape and isinstance(info.shape[0], str)}
        for part in (slice(0, batch), slice(batch, 2 * batch)):
            alone = before.run(
                outputs, {name: value[part] if name in moving else value for name, value in feeds.items()}
            )
            for one, other in zip(alone, together, strict=True):
                if len(other) != 2 * len(one) or not np.allclose(
                    one, other[len(one) :] if part.start else other[: len(one)], rtol=TOLERANCE, atol=TOLERANCE
                ):
                    return False
    except ModelError:
        return False
    return True
