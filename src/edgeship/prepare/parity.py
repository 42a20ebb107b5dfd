"""PyTorch against ONNX, on seeded inputs and on real preprocessed images.

When they disagree, the first operator in execution order whose output differs is named, with its place in the
user's code: the exporter records for every ONNX node the FX node that it came from, so intermediate values can be
compared one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeship import config, engines
from edgeship.errors import ModelError, ParityError
from edgeship.prepare import export, graph, model
from edgeship.prepare.inputs import NOTHING, Known, accepted_feeds, parameter_inputs
from edgeship.prepare.running import Running
from edgeship.prepare.steady import require_rows_apart, require_steady, training_modules
from edgeship.results import Divergence, OutputDifference, Parity

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
Feeds = dict[str, Array]
Runs = Callable[[Feeds], Sequence[Array]]


@dataclass(frozen=True)
class Request:
    """What to compare.

    ``exported`` is the ONNX as the exporter wrote it, ``onnx`` the one that goes on (simplified). ``images`` are
    real frames as feeds by input name, in the model's order. ``known`` tells sizes and ranges of inputs beside what
    ``settings`` says.
    """

    settings: config.Model
    root: Path
    exported: Path
    onnx: Path
    tolerances: config.Parity
    images: Sequence[Feeds] = ()
    known: Known = NOTHING


def parity(request: Request) -> Parity:
    """Compare PyTorch (or, for an .onnx source, the user's own file) with the graph that goes on.

    Returns:
        The differences per output. ``passed`` is False, with ``divergence`` naming the first operator, when any
        value differs by more than ``atol + rtol * |reference|``.

    Raises:
        ModelError: The model or the graph cannot be run on the inputs, or its outputs are not finite.
        EngineError: On CUDA: the device is not there, its memory is full, or onnxruntime refuses the graph.
    """
    proto = graph.load_onnx(request.onnx)
    names = [item.name for item in graph.inputs_of(proto)]
    outputs = [item.name for item in graph.outputs_of(proto)]
    loaded = None if model.is_onnx(request.settings) else model.load(request.settings, request.root)
    meter = _Meter(outputs, request.tolerances.rtol, request.tolerances.atol)
    seeded = _seeded(request, loaded, proto)
    if loaded is not None:
        for feeds in (*seeded, *request.images)[:1]:
            require_steady(loaded, dict(feeds))
    worst: Feeds | None = None
    with ExitStack() as stack:
        candidate = _graph_runs(request, request.onnx, outputs, stack)
        reference = _torch_runs(loaded, request) if loaded else _graph_runs(request, request.exported, outputs, stack)
        for feeds in (*seeded, *request.images):
            arrays = _bind(names, feeds)
            if not meter.add(reference(arrays), candidate(arrays)) and worst is None:
                worst = feeds
        blame = training_modules(loaded.module) if loaded is not None else ""
        for feeds in (*seeded, *request.images)[:1]:
            require_rows_apart(proto, candidate, _bind(names, feeds), blame)
    divergence = None
    if worst is not None:
        divergence = (
            locate(loaded, request, worst) if loaded is not None else _between_graphs(request, _bind(names, worst))
        )
    return Parity(
        passed=worst is None,
        rtol=request.tolerances.rtol,
        atol=request.tolerances.atol,
        outputs=meter.results(),
        random_inputs=len(seeded),
        real_images=sum(_rows(feeds) for feeds in request.images),
        device=request.tolerances.device,
        divergence=divergence,
    )


def require(result: Parity) -> None:
    """Stop when parity failed.

    Raises:
        ParityError: Names the output, the first operator that diverges and its place.
    """
    if result.passed:
        return
    worst = max(result.outputs, key=lambda item: (not item.passed, item.max_abs))
    found = (
        f"PyTorch and ONNX disagree: output {worst.name!r} differs by up to {worst.max_abs:.3g} "
        f"(mean {worst.mean_abs:.3g})"
    )
    if result.divergence is not None:
        first = result.divergence
        at = f", from {first.place}" if first.place else ""
        found += f"\n  first operator that differs: {first.operator} {first.node!r}{at}, by up to {first.max_abs:.3g}"
    raise ParityError(
        found,
        expected=f"every value within atol {result.atol:g} + rtol {result.rtol:g} of PyTorch's",
        do="suspect how this layer was lowered (normalization and interpolation are the usual ones): rewrite it with "
        "plain operators, or raise [parity] rtol and atol if the difference is known and harmless",
    )


def _rows(feeds: Feeds) -> int:
    """How many frames a feed holds; inputs without axes hold none of their own."""
    return max((len(array) for array in feeds.values() if array.ndim), default=1)


def _seeded(request: Request, loaded: model.Loaded | None, proto: onnx.ModelProto) -> list[Feeds]:
    seeds = range(1, request.tolerances.seeds + 1)
    if loaded is not None:
        shapes, _ = model.accepted_shapes(loaded)
        return [loaded.noise(shapes, seed) for seed in seeds]
    known = replace(request.known, bounds={**request.known.bounds, **model.bounds_of(request.settings.inputs)})
    if request.images and not set(parameter_inputs(proto)) <= set(known.bounds):
        return []  # noise has no meaning for a parameter: the real inputs alone are compared
    return accepted_feeds(proto, _opened(request.onnx), model.DYNAMIC_EXAMPLE, known, seeds)


def _torch_runs(loaded: model.Loaded, request: Request) -> Runs:
    """The user's model as a function of arrays in call order; on CUDA a copy of it, without TF32."""
    device, module = request.tolerances.device, model.untouched(loaded.module)
    if device != "cpu":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        module = module.to(device)
    return lambda arrays: [value for _, value in model.call(module, arrays, device)]


def _graph_runs(request: Request, onnx: Path, outputs: list[str], stack: ExitStack) -> Runs:
    """A graph as a function of arrays by name: on CUDA the runner that the onnxruntime engine uses, without TF32."""
    if request.tolerances.device == "cpu":
        running = _opened(onnx)
        return lambda arrays: running.run(outputs, arrays)
    runner = engines.get("onnxruntime").open(onnx, engines.OpenOptions(device=request.tolerances.device))
    stack.callback(runner.close)

    def run(arrays: Feeds) -> Sequence[Array]:
        answers = runner.infer(arrays)
        return [answers[name] for name in outputs]

    return run


def _opened(onnx: Path) -> Running:
    """A file as it stands; one that declares sizes of 0, which onnxruntime would insist on, without them."""
    return Running(graph.load_onnx(onnx) if graph.declares_empty(graph.read_onnx(onnx)) else onnx)


def _bind(names: list[str], feeds: Feeds) -> Feeds:
    return dict(zip(names, feeds.values(), strict=True))


class _Meter:
    """Largest and mean differences per output over several inputs."""

    def __init__(self, names: list[str], rtol: float, atol: float) -> None:
        self.names, self.rtol, self.atol = names, rtol, atol
        self.worst = dict.fromkeys(names, 0.0)
        self.relative = dict.fromkeys(names, 0.0)
        self.total = dict.fromkeys(names, 0.0)
        self.count = dict.fromkeys(names, 0)
        self.passed = dict.fromkeys(names, True)

    def add(self, reference: Sequence[Array], candidate: Sequence[Array]) -> bool:
        """Take in one answer; say whether it is within tolerance."""
        if len(reference) != len(candidate):
            raise ModelError(f"the model returns {len(reference)} tensors, the ONNX graph {len(candidate)}")
        good = True
        for name, a, b in zip(self.names, reference, candidate, strict=True):
            if a.shape != b.shape:
                raise ModelError(
                    f"output {name!r} is {list(a.shape)} in the model and {list(b.shape)} in the ONNX graph"
                )
            first, second = a.astype(np.float64), b.astype(np.float64)
            model.require_finite([(name, first)], "the model on a parity input")
            difference = np.abs(first - second)
            within = bool(np.all(difference <= self.atol + self.rtol * np.abs(first)))
            self.passed[name] &= within
            good &= within
            if difference.size:
                self.worst[name] = max(self.worst[name], float(np.max(difference)))
                self.relative[name] = max(self.relative[name], float(np.max(difference / (np.abs(first) + 1e-12))))
            self.total[name] += float(np.sum(difference))
            self.count[name] += difference.size
        return good

    def results(self) -> tuple[OutputDifference, ...]:
        """One value per output."""
        return tuple(
            OutputDifference(
                name=name,
                max_abs=self.worst[name],
                mean_abs=self.total[name] / max(self.count[name], 1),
                max_rel=self.relative[name],
                passed=self.passed[name],
            )
            for name in self.names
        )


def locate(loaded: model.Loaded, request: Request, feeds: Feeds) -> Divergence | None:
    """The first operator of the graph whose output differs from PyTorch's value of the same place.

    The user's program is captured and decomposed again and interpreted node by node; each ONNX node of
    ``request.onnx`` names the FX node it was made from. Both sides run on the CPU, wherever they disagreed: a
    difference that only CUDA shows has no operator here.
    """
    import torch

    outputs = [f"edgeship_output_{index}" for index, _ in enumerate(graph.outputs_of(graph.load_onnx(request.onnx)))]
    arrays = loaded.noise(model.accepted_shapes(loaded)[0], seed=0)
    _, program, _ = export.to_onnx(loaded, arrays, outputs, request.settings.opset)
    values: dict[str, Array] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                values[n.name] = result.detach().cpu().numpy()
            return result

    with torch.no_grad():
        lifted = [*_constants(program), *(torch.from_numpy(array) for array in feeds.values())]
        Recorder(program.graph_module).run(*lifted)
    proto = graph.load_onnx(request.onnx)
    last = {}  # of several ONNX nodes made from one FX node, the last alone has its value
    for node in proto.graph.node:
        match = re.match(r"%(\w+) :", graph.metadata(node).get(graph.FX_NODE, ""))
        if match and match.group(1) in values:
            last[match.group(1)] = node
    pairs = [(node, values[name]) for name, node in last.items() if len(node.output) == 1]
    names = [item.name for item in graph.inputs_of(proto)]
    return _first_difference(proto, pairs, _bind(names, feeds), request.tolerances)


def _constants(program: Any) -> list[Any]:
    """Parameters, buffers and constants in the order of the program's placeholders."""
    tensors = []
    for item in program.graph_signature.input_specs:
        if item.target is None:
            continue
        name = item.target
        tensors.append(program.state_dict[name] if name in program.state_dict else program.constants[name])
    return tensors


def _between_graphs(request: Request, feeds: Feeds) -> Divergence | None:
    """The first operator of the edited graph whose tensor differs from the tensor of that name before."""
    before, after = graph.load_onnx(request.exported), graph.load_onnx(request.onnx)
    known = [name for node in before.graph.node for name in node.output if name]
    values = dict(zip(known, _intermediates(before, known, feeds), strict=True))
    pairs = [(node, values[node.output[0]]) for node in after.graph.node if node.output[0] in values]
    return _first_difference(after, pairs, feeds, request.tolerances)


def _first_difference(
    proto: onnx.ModelProto, pairs: Iterable[tuple[Any, Array]], feeds: Feeds, tolerances: config.Parity
) -> Divergence | None:
    listed = list(pairs)
    found = _intermediates(proto, [node.output[0] for node, _ in listed], feeds)
    for (node, reference), value in zip(listed, found, strict=True):
        if reference.shape != value.shape or reference.dtype.kind != "f":
            continue
        difference = np.abs(reference.astype(np.float64) - value.astype(np.float64))
        if not np.all(difference <= tolerances.atol + tolerances.rtol * np.abs(reference)):
            return Divergence(
                node=node.name,
                operator=node.op_type,
                tensor=node.output[0],
                place=graph.place(node),
                max_abs=float(np.nanmax(difference)) if difference.size else 0.0,
            )
    return None


def _intermediates(proto: onnx.ModelProto, names: list[str], feeds: Feeds) -> list[Array]:
    """Values of inner tensors, computed without graph optimization so that every one exists."""
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    existing = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in existing)
    return Running(exposed, optimize=False).run(names, feeds) if names else []
