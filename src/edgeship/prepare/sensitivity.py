"""Which nodes does quantization hurt most? Measured on real frames, in one onnxruntime session, with no engine built.

The graph is rewritten so that each group of nodes (a convolution or matrix product with its activation, or another
operator with an integer kernel) stands twice in an ``If``: as it was, and with its inputs, weights and, for
onnxruntime, outputs rounded to their 8-bit grids. A boolean vector fed at run time says which groups are quantized,
so one session answers for every group alone and for every plan that keeps some of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeship.data.loader import default_workers
from edgeship.errors import DataError, UserInputError
from edgeship.prepare import graph
from edgeship.prepare.calibration_cache import UNLIMITED
from edgeship.prepare.compare import Snr
from edgeship.prepare.quantized_tensors import COMPUTING, SHARING, WEIGHTED, float_tensors, infer, limits, place, select
from edgeship.progress import Progress, silent
from edgeship.results import SensitiveGroup, Sensitivity

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.activations import Batch
    from edgeship.prepare.calibration_cache import Calibration

Style = Literal["onnxruntime", "tensorrt"]
FLAGS = "edgeship_quantized"
ACTIVATIONS = frozenset(("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu"))
FRAMES = 4
"""Frames that every group is measured on unless told otherwise."""


@dataclass(frozen=True)
class RankOptions:
    """How to rank.

    ``keep`` names nodes that stay in high precision in any case; ``frames`` is how many real frames are used, in
    whole batches; ``workers`` measure groups side by side, each on one thread (None: one for each core, at most
    eight).
    """

    style: Style = "onnxruntime"
    per_channel: bool = True
    keep: tuple[str, ...] = ()
    frames: int = FRAMES
    workers: int | None = None


def rank(
    model: Path,
    calibration: Calibration,
    frames: Iterable[Batch],
    options: RankOptions | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Rank groups of nodes by the damage that quantizing them alone does to the outputs, worst first.

    Args:
        model: The slim FP32 ONNX file.
        calibration: Ranges of this model, from ``prepare.calibration_cache.load``.
        frames: Real frames in batches of (ids, {input: array}); the first batches that hold
            ``options.frames`` are used.

    Raises:
        DataError: No frames.
        UserInputError: A keep pattern names nothing, or the model holds nothing that could be quantized.
    """
    options = options or RankOptions()
    start = time.perf_counter()
    simulator = Simulator(graph.load_onnx(model), calibration, frames, options)
    groups = simulator.groups
    steps = _steps(len(groups))
    total = len(groups) + len(steps)
    damage: list[float] = []
    curve: list[tuple[int, float]] = []
    with ThreadPoolExecutor(options.workers or default_workers()) as pool:
        try:
            for snr_db in pool.map(simulator.snr, ([position] for position in range(len(groups)))):
                damage.append(snr_db)
                progress(len(damage), total, "rank nodes")
            order = sorted(range(len(groups)), key=lambda item: (damage[item], item))
            for kept, snr_db in zip(steps, pool.map(simulator.snr, (order[kept:] for kept in steps)), strict=True):
                curve.append((kept, round(snr_db, 3)))
                progress(len(groups) + len(curve), total, "rank nodes")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Sensitivity(
        style=options.style,
        groups=tuple(groups[item].result(round(damage[item], 3)) for item in order),
        frames=simulator.frames,
        seconds=time.perf_counter() - start,
        plain_db=curve[0][1],
        curve=tuple(curve),
    )


def _steps(count: int) -> list[int]:
    """0, 1, 2, 4, … below ``count``."""
    found = [0]
    step = 1
    while step < count:
        found.append(step)
        step *= 2
    return found


@dataclass
class Group:
    """Nodes that are quantized or kept together, in execution order."""

    nodes: list[onnx.NodeProto]
    patterns: tuple[Literal["first", "last", "depthwise"], ...] = ()

    def result(self, snr_db: float) -> SensitiveGroup:
        """As results tell it."""
        return SensitiveGroup(
            nodes=tuple(node.name for node in self.nodes),
            operator="+".join(node.op_type for node in self.nodes),
            snr_db=snr_db,
            patterns=self.patterns,
        )


class Simulator:
    """A graph whose groups can each be quantized or not, at run time, beside the reference's own outputs.

    Raises:
        DataError: No frames.
        UserInputError: The model holds nothing that could be quantized.
    """

    def __init__(
        self, model: onnx.ModelProto, calibration: Calibration, frames: Iterable[Batch], options: RankOptions
    ) -> None:
        reference = infer(model)
        kept = frozenset(select(reference, options.keep))
        self.groups = find_groups(reference, kept, options.style)
        if not self.groups:
            raise UserInputError("the model holds no node that could be quantized, so there is nothing to rank")
        self._feeds = list(_take(frames, options.frames))
        if not self._feeds:
            raise DataError("no frames to rank on", do="give frames from the deployment camera")
        self.frames = sum(
            max((len(array) for array in feeds.values() if array.ndim), default=1) for feeds in self._feeds
        )
        self._outputs = [value.name for value in reference.graph.output]
        switched = _Switched(reference, calibration, options).build(self.groups)
        self._session = graph.session(switched, threads=1)
        self._wanted = [self._run(feeds, ()) for feeds in self._feeds]

    def snr(self, quantized: Sequence[int]) -> float:
        """Signal-to-noise in dB of the worst output with the groups at these positions quantized."""
        noise = {name: Snr() for name in self._outputs}
        for feeds, wanted in zip(self._feeds, self._wanted, strict=True):
            for name, ours, theirs in zip(self._outputs, wanted, self._run(feeds, quantized), strict=True):
                noise[name].add(ours, theirs)
        return min(item.db for item in noise.values())

    def _run(self, feeds: dict[str, NDArray[Any]], quantized: Sequence[int]) -> list[NDArray[Any]]:
        flags = np.zeros(len(self.groups), dtype=np.bool_)
        flags[list(quantized)] = True
        answer: list[NDArray[Any]] = self._session.run(self._outputs, {**feeds, FLAGS: flags})
        return answer


def _take(frames: Iterable[Batch], limit: int) -> Iterable[dict[str, NDArray[Any]]]:
    """The first batches that hold ``limit`` frames or more, whole: a graph may take no part of one."""
    taken = 0
    for ids, feeds in frames:
        if taken >= limit:
            return
        taken += max(len(ids), 1)
        yield dict(feeds)


def find_groups(model: onnx.ModelProto, kept: frozenset[str], style: Style) -> list[Group]:
    """Groups in execution order: weighted nodes with the activation behind them, then every other quantized node."""
    floats = float_tensors(model)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in model.graph.output}
    taken: set[str] = set()
    groups: list[Group] = []
    for node in model.graph.node:
        if node.name in taken or node.name in kept or not _quantizable(node, floats, style):
            continue
        members = [node]
        if node.op_type in WEIGHTED and node.output[0] not in outputs:
            members += [item for item in _activation(node, readers) if item.name not in kept]
        taken.update(item.name for item in members)
        groups.append(Group(members))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    weighted = [group for group in groups if group.nodes[0].op_type in WEIGHTED]
    last = _last(weighted, readers)
    for group in groups:
        marks: list[Literal["first", "last", "depthwise"]] = []
        if weighted and group is weighted[0]:
            marks.append("first")
        if any(group is item for item in last):
            marks.append("last")
        if _depthwise(group.nodes[0], shapes):
            marks.append("depthwise")
        group.patterns = tuple(marks)
    return groups


def _quantizable(node: onnx.NodeProto, floats: set[str], style: Style) -> bool:
    kinds = COMPUTING if style == "onnxruntime" else WEIGHTED
    return node.op_type in kinds and node.op_type not in SHARING and node.output[0] in floats


def _activation(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """The activation behind a node: one operator, or a gate (Sigmoid and Mul) whose two inputs come from it."""
    output = node.output[0]
    found: list[onnx.NodeProto] = [item for item in readers[output] if item.op_type in ACTIVATIONS]
    if len(found) != 1:
        return []
    gate = found[0]
    behind = readers[gate.output[0]]
    if len(readers[output]) == 1:
        return [gate]
    if len(readers[output]) == 2 and len(behind) == 1 and set(behind[0].input) == {output, gate.output[0]}:
        return [gate, behind[0]]
    return []


def _last(weighted: list[Group], readers: dict[str, list[onnx.NodeProto]]) -> list[Group]:
    """Weighted groups from which no other weighted node can be reached."""
    heads = {id(group.nodes[0]) for group in weighted}
    found = []
    for group in weighted:
        names = {node.name for node in group.nodes}
        waiting = [name for node in group.nodes for name in node.output]
        seen: set[str] = set()
        reaches = False
        while waiting and not reaches:
            for reader in readers[waiting.pop()]:
                if reader.name in names or reader.name in seen:
                    continue
                seen.add(reader.name)
                reaches = reaches or id(reader) in heads
                waiting.extend(reader.output)
        if not reaches:
            found.append(group)
    return found


def _depthwise(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    parts = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" and len(node.input) > 1 else ()
    return parts > 1 and bool(shape) and shape[1] == 1


class _Switched:
    """Builds the graph with one ``If`` for each group."""

    def __init__(self, model: onnx.ModelProto, calibration: Calibration, options: RankOptions) -> None:
        self._model = model
        self._calibration = calibration
        self._options = options
        self._floats = float_tensors(model)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shared = place(model).shared
        self._limits = limits(model)
        self._added: dict[str, onnx.TensorProto] = {}

    def build(self, groups: Sequence[Group]) -> onnx.ModelProto:
        """A copy of the model with a boolean input :data:`FLAGS`, one for each group."""
        import onnx
        from onnx import helper, numpy_helper

        of_node = {node.name: (position, group) for position, group in enumerate(groups) for node in group.nodes}
        used: dict[str, set[str]] = defaultdict(set)
        for node in self._model.graph.node:
            for name in node.input:
                used[name].add(node.name)
        outputs = {value.name for value in self._model.graph.output}
        nodes: list[onnx.NodeProto] = []
        for node in self._model.graph.node:
            if node.name not in of_node:
                nodes.append(node)
                continue
            position, group = of_node[node.name]
            if node is not group.nodes[-1]:
                continue
            members = {item.name for item in group.nodes}
            leaving = [
                name
                for item in group.nodes
                for name in item.output
                if name and (name in outputs or used[name] - members)
            ]
            index = numpy_helper.from_array(np.array(position, dtype=np.int64), f"{FLAGS}_{position}")
            self._added[index.name] = index
            nodes.append(helper.make_node("Gather", [FLAGS, index.name], [f"{FLAGS}_on_{position}"]))
            branches = {
                "then_branch": self._branch(group, leaving, quantized=True),
                "else_branch": self._branch(group, leaving, quantized=False),
            }
            nodes.append(helper.make_node("If", [f"{FLAGS}_on_{position}"], leaving, f"switch_{position}", **branches))
        switched = onnx.ModelProto()
        switched.CopyFrom(self._model)
        del switched.graph.node[:]
        switched.graph.node.extend(nodes)
        switched.graph.initializer.extend(self._added.values())
        switched.graph.input.append(helper.make_tensor_value_info(FLAGS, onnx.TensorProto.BOOL, [len(groups)]))
        return switched

    def _branch(self, group: Group, leaving: Sequence[str], *, quantized: bool) -> onnx.GraphProto:
        import onnx
        from onnx import helper

        suffix = "__quantized" if quantized else "__plain"
        inner = {name for node in group.nodes for name in node.output}
        nodes: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}
        rounded: dict[str, str] = {}
        for node in group.nodes:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            twin.name = node.name + suffix
            for slot, name in enumerate(node.input):
                source = renamed.get(name, name)
                if quantized:
                    if source not in rounded:
                        rounded[source] = self._rounded_input(node, slot, name, source, nodes, inner)
                    source = rounded[source]
                twin.input[slot] = source
            for slot, name in enumerate(node.output):
                renamed[name] = name + suffix
                twin.output[slot] = name + suffix
            nodes.append(twin)
        if quantized and self._options.style == "onnxruntime":
            for name in leaving:
                renamed[name] = self._rounded(name, renamed[name], nodes)
        results = []
        for name in leaving:
            final = f"{name}{suffix}_out"
            nodes.append(helper.make_node("Identity", [renamed[name]], [final]))
            results.append(helper.make_tensor_value_info(final, onnx.TensorProto.FLOAT, None))
        return helper.make_graph(nodes, f"{group.nodes[0].name}{suffix}", [], results)

    def _rounded_input(
        self, node: onnx.NodeProto, slot: int, name: str, source: str, nodes: list[onnx.NodeProto], inner: set[str]
    ) -> str:
        """The tensor that a quantized node reads in place of ``source``."""
        if name in self._constants:
            weight = node.op_type in WEIGHTED and slot == 1
            both = self._options.style == "onnxruntime" and node.op_type in ("Add", "Mul", "MatMul", "Gemm", "Concat")
            return self._weight(node, name) if weight or (both and slot < 2) else source
        if name not in self._floats:
            return source
        if self._options.style == "tensorrt" and (node.op_type not in WEIGHTED or name in inner):
            return source
        return self._rounded(name, source, nodes)

    def _rounded(self, name: str, source: str, nodes: list[onnx.NodeProto]) -> str:
        """Append Q/DQ of an activation; a tensor that calibration does not know is left alone."""
        from onnx import helper

        grid = self._grid(name)
        if grid is None:
            return source
        scale, zero = grid
        tail = f"{source}__{len(nodes)}"
        names = (self._constant(f"{tail}_scale", scale), self._constant(f"{tail}_zero", zero))
        nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"{tail}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tail}_q", *names], [f"{tail}_dq"]))
        return f"{tail}_dq"

    def _grid(self, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Scale and zero point of an activation in the target's style; None: not calibrated."""
        root = self._shared.get(name, name)
        if self._options.style == "tensorrt":
            scale = self._calibration.scales.get(root)
            return None if scale is None else (np.array(scale, np.float32), np.array(0, np.int8))
        bounds = self._calibration.bounds(root, self._limits.get(root, UNLIMITED))
        if bounds is None:
            return None
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        step = (high - low) / 255 or 1.0
        return np.array(step, np.float32), np.array(round(-low / step), np.uint8)

    def _weight(self, node: onnx.NodeProto, name: str) -> str:
        """A constant rounded to symmetric int8, per channel where the node's kind and the options say so."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self._constants[name])
        if values.dtype not in (np.float32, np.float16):
            return name
        axis = _channel_axis(node, values.ndim) if self._options.per_channel else None
        key = f"{name}__int8_{axis}"
        if key not in self._added:
            over = tuple(item for item in range(values.ndim) if item != axis)
            peak = np.abs(values.astype(np.float64)).max(axis=over, keepdims=True)
            scale = np.where(peak > 0, peak / 127, 1.0)
            rounded = np.clip(np.rint(values / scale), -127, 127) * scale
            self._constant(key, rounded.astype(values.dtype))
        return key

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._added[name] = numpy_helper.from_array(value, name)
        return name


def _channel_axis(node: onnx.NodeProto, dimensions: int) -> int | None:
    """The axis of a weight's output channels; None: one scale for all of it."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        return 0 if transposed else 1
    return dimensions - 1 if node.op_type == "MatMul" and dimensions >= 2 else None
