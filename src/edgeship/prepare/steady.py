"""Whether a model gives one answer to one frame: run twice, and alone against in a batch."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import ModelError
from edgeship.prepare import graph
from edgeship.prepare.model import Loaded, call, untouched
from edgeship.prepare.running import Running

if TYPE_CHECKING:
    import onnx
    import torch
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Feeds = Mapping[str, Array]

Runs = Callable[[dict[str, "Array"]], Sequence["Array"]]
DEPENDS = 1e-2
"""Share of an output's largest value by which a frame's answer may move with the rest of its batch: kernels differ."""


def require_steady(loaded: Loaded, arrays: dict[str, Array]) -> None:
    """Run the PyTorch model twice on the same inputs.

    Raises:
        ModelError: The answers differ. Names the buffers that forward() changes, or the random operator and its place.
    """
    module = untouched(loaded.module)
    before = {name: tensor.clone() for name, tensor in module.named_buffers()}
    first, second = call(module, arrays), call(module, arrays)
    moved = [name for (name, one), (_, other) in zip(first, second, strict=True) if not _same(one, other)]
    if not moved:
        return
    changed = [name for name, tensor in module.named_buffers() if not _same_tensor(before.get(name), tensor)]
    if changed:
        raise ModelError(
            f"two calls of the model on the same input differ in {moved[0]!r}: forward() keeps state in its buffers "
            f"{', '.join(changed[:5])}",
            expected="an answer that depends on the input alone; an engine keeps no state between frames",
            do="make the state an input and an output of forward(), or freeze it",
        )
    drawn = _random_operator(module, arrays)
    cause = f"draws random numbers: {drawn}" if drawn else "is random or keeps state outside its buffers"
    raise ModelError(
        f"two calls of the model on the same input differ in {moved[0]!r}: forward() {cause}",
        expected="an answer that depends on the input alone",
        do="turn dropout and sampling off in eval mode (F.dropout needs training=self.training), or make the noise an "
        "input",
    )


def _same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _same_tensor(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and one.shape == other.shape and bool((one == other).all())


def _random_operator(module: torch.nn.Module, arrays: dict[str, Array]) -> str:
    """The first operator that draws random numbers, with its place in the user's code; empty where there is none."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded in func.tags and not seen:
                own = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
                frame = own[-2] if len(own) > 1 else own[-1]
                seen.append(f"{func.name().partition('.')[0]}, at {Path(frame.filename).name}:{frame.lineno}")
            return func(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        call(module, arrays)
    return seen[0] if seen else ""


def require_rows_apart(model: onnx.ModelProto, run: Runs, feeds: Feeds, blame: str = "") -> None:
    """Compare the first frame alone with the same frame in its batch.

    Args:
        model: The graph, for its axes and for naming the operator.
        run: The graph as a function of feeds by name.
        feeds: A batch of two frames or more, for a graph whose batch is dynamic; else nothing is compared.
        blame: What is known of the user's model, for the message.

    Raises:
        ModelError: The answers differ; names the first operator whose row differs.
    """
    batched = {info.name for info in graph.inputs_of(model) if info.shape and isinstance(info.shape[0], str)}
    rows = {len(feeds[name]) for name in batched}
    if len(rows) != 1 or min(rows) < 2:
        return
    count = rows.pop()
    alone = {name: array[:1] if name in batched else array for name, array in feeds.items()}
    outputs = [info.name for info in graph.outputs_of(model)]
    for name, one, many in zip(outputs, run(alone), run(dict(feeds)), strict=True):
        if _rows(one, many, count) and _moved(one[0], many[0]) > DEPENDS:
            raise ModelError(
                f"the answer to a frame depends on the rest of its batch: output {name!r} differs by "
                f"{_moved(one[0], many[0]):.0%} of its range between a batch of 1 and of {count}"
                f"{_first_mixing(model, alone, feeds, count)}{blame}",
                expected="rows that do not depend on one another",
                do="put normalization in eval mode (BatchNorm with its running statistics), and take no mean over the "
                "batch axis; or fix the batch at 1",
            )


def _rows(one: Array, many: Array, count: int) -> bool:
    return one.dtype.kind == "f" and one.ndim > 0 and len(one) == 1 and len(many) == count and one[0].size > 0


def _moved(one: Array, other: Array) -> float:
    """The largest difference as a share of the largest value."""
    if one.shape != other.shape:
        return 1.0
    first, second = one.astype(np.float64), other.astype(np.float64)
    scale = max(float(np.max(np.abs(first), initial=0.0)), 1e-6)
    return float(np.max(np.abs(first - second), initial=0.0)) / scale


def _first_mixing(model: onnx.ModelProto, alone: Feeds, together: Feeds, count: int) -> str:
    """``; first at BatchNormalization 'bn' (from model.py:12 in forward)``, by the inner tensors of both runs."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    declared = {value.name for value in exposed.graph.output}
    nodes = {node.output[0]: node for node in model.graph.node if node.output and node.output[0] not in declared}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in nodes)
    running = Running(exposed, optimize=False)
    for (name, node), one, many in zip(
        nodes.items(), running.run(list(nodes), alone), running.run(list(nodes), together), strict=True
    ):
        if _rows(one, many, count) and _moved(one[0], many[0]) > DEPENDS:
            where = graph.place(node)
            return f"; first at {node.op_type} {node.name or name!r}{f' (from {where})' if where else ''}"
    return ""


def training_modules(module: torch.nn.Module) -> str:
    """``; bn1, bn2 are in training mode``; empty where all normalization uses running statistics."""
    import torch

    found = [
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None)
    ]
    return f"; without running statistics: {', '.join(found[:5])}" if found else ""
