"""A graph that is run from layer to layer on the same frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeship.prepare.running import Running

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Stepwise:
    """A graph that is run from layer to layer: the results of layers are kept, so that no layer runs twice.

    Args:
        model: The graph.
        cuts: The results of the layers, in execution order.
        inner: Other tensors that will be asked for.
    """

    def __init__(self, model: onnx.ModelProto, cuts: Sequence[str], inner: Sequence[str]) -> None:
        import onnx
        from onnx import TensorProto, helper

        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._cuts = frozenset(cuts)
        self._made: dict[str, onnx.NodeProto] = {}
        for node in self._model.graph.node:
            for slot, name in enumerate(node.output):
                if name in self._cuts:
                    node.output[slot] = self.raw(name)
                self._made[node.output[slot]] = node
        self._inputs = {value.name: value for value in self._model.graph.input}
        self._inputs |= {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in cuts}
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}
        asked = [*map(self.raw, cuts), *(name for name in inner if name not in self._inputs)]
        self._needs = {name: _before(name, self._made) for name in dict.fromkeys(asked)}
        self._last = {name: raw for raw in map(self.raw, cuts) for name in self._cuts & self._needs[raw]}
        self._kept: list[dict[str, Array]] = []
        self._feeds: list[Mapping[str, Array]] = []

    @staticmethod
    def raw(cut: str) -> str:
        """A layer's result before :meth:`finish`."""
        return f"{cut}:result"

    def begin(self, feeds: Sequence[Mapping[str, Array]]) -> None:
        """Forget all results; go on with these inputs."""
        self._feeds = list(feeds)
        self._kept = [{} for _ in feeds]

    def values(self, name: str, more: Mapping[str, Array]) -> Iterator[Array]:
        """A tensor for each batch. ``more``: further inputs of the graph."""
        running = None
        for feeds, kept in zip(self._feeds, self._kept, strict=True):
            given = {**feeds, **more, **kept}
            if name in given:
                yield given[name]
                continue
            if running is None:
                running = Running(self._part(name), optimize=False)
            yield running.run([name], {key: given[key] for key in self._needs[name] & self._inputs.keys()})[0]

    def _part(self, name: str) -> onnx.ModelProto:
        """The part of the graph that computes a tensor from the results of layers."""
        import onnx
        from onnx import helper

        needs = self._needs[name]
        graph_ = helper.make_graph(
            [node for node in self._model.graph.node if needs.intersection(node.output)],
            "part",
            [self._inputs[key] for key in sorted(needs & self._inputs.keys())],
            [onnx.ValueInfoProto(name=name)],
            [self._constants[key] for key in sorted(needs & self._constants.keys())],
        )
        opsets = self._model.opset_import
        return helper.make_model(graph_, opset_imports=opsets, ir_version=self._model.ir_version)

    def finish(self, cut: str, results: Sequence[Array]) -> None:
        """Keep a layer's results for the layers behind it, and forget what none of them needs."""
        for kept, result in zip(self._kept, results, strict=True):
            kept[cut] = result
            for name in [name for name in kept if self._last.get(name, self.raw(cut)) == self.raw(cut)]:
                del kept[name]


def _before(name: str, made: Mapping[str, onnx.NodeProto]) -> set[str]:
    """All tensors that a tensor is computed from, and itself."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        tensor = waiting.pop()
        if tensor not in seen:
            seen.add(tensor)
            node = made.get(tensor)
            if node is not None:
                waiting += [*node.input, *_outer(node)]
    return seen


def _outer(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the bodies of a loop or condition read."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from (*inner.input, *_outer(inner))
            yield from (value.name for value in body.output)
