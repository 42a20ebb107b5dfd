"""Simplify a graph with onnxslim; check it before and after, and compare its answers with the original's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import MissingExtra, ParityError
from edgeship.prepare import graph
from edgeship.prepare.inputs import accepted_feeds
from edgeship.prepare.running import Running
from edgeship.results import Artifact, Slimmed

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-4
BATCH = 2
"""Rows of the seeded inputs where the batch is dynamic."""


def slim(source: Path, target: Path) -> Slimmed:
    """Write a simplified copy of an ONNX file.

    Simplification must not change names or shapes of inputs and outputs, nor the answers on seeded inputs
    beyond ``rtol = atol = 1e-4`` (folding constants changes the order of float32 sums).

    Raises:
        ModelError: The graph is not valid before or after.
        ParityError: The simplified graph answers differently.
        MissingExtra: onnxslim is not installed.
    """
    try:
        import onnxslim
    except ImportError:
        raise MissingExtra("simplifying a graph", "onnxslim", "host") from None
    before = graph.load_onnx(source)
    graph.check_onnx(before, str(source))
    after: onnx.ModelProto = onnxslim.slim(graph.load_onnx(source))
    _restore_interface(before, after)
    graph.copy_metadata(before, after)
    graph.check_onnx(after, "the simplified graph")
    difference = _difference(before, after)
    graph.save_onnx(after, target)
    return Slimmed(
        model=Artifact.of(target, target.parent),
        inputs=graph.inputs_of(after),
        outputs=graph.outputs_of(after),
        nodes_before=len(before.graph.node),
        nodes_after=len(after.graph.node),
        operators=graph.operators_of(after),
        max_difference=difference,
    )


def _restore_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Keep the declared shapes of inputs and outputs, dynamic axes by their names."""
    for old_values, new_values in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        old = {value.name: value for value in old_values}
        for value in new_values:
            if value.name in old:
                value.CopyFrom(old[value.name])


def _difference(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    names = [item.name for item in graph.outputs_of(before)]
    reference = Running(before)
    feeds = accepted_feeds(before, reference, BATCH)[0]
    first = reference.run(names, feeds)
    second = Running(after).run(names, feeds)
    worst = 0.0
    for name, a, b in zip(names, first, second, strict=True):
        if a.shape != b.shape or not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            raise ParityError(
                f"simplifying changed the output {name!r}",
                expected=f"equal answers within rtol = atol = {TOLERANCE}",
                do="report this graph to onnxslim, and go on with the unsimplified one",
            )
        if a.size:
            worst = max(worst, float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)))))
    return worst
