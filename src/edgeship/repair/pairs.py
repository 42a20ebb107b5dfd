"""Producers and consumers between which a factor of each channel can move without changing what the graph computes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]

Kind = Literal["equalize", "smooth"]
HOMOGENEOUS = frozenset(("Relu", "LeakyRelu"))
"""f(s·x) = s·f(x) for every s > 0."""
POOLING = frozenset(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout"))
"""Channel by channel, and homogeneous."""


@dataclass
class Pair:
    """A producer of channels, and the nodes that read them.

    Args:
        producer: A convolution, or a layer normalization.
        consumers: Convolutions, or matrix products, with constant weights: all readers.
        tensors: What is rounded between them, behind the activation.
        limit: The upper end of a Clip between them; None: no Clip.
    """

    producer: onnx.NodeProto
    consumers: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    limit: float | None = None

    @property
    def axis(self) -> int:
        """The axis of the channels in ``tensors``."""
        return 1 if self.producer.op_type == "Conv" else -1


class Pairs:
    """The pairs of a graph whose nodes are named and whose constants are initializers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._uses: Counter[str] = Counter()
        self._inner: set[str] = set()
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
                self._uses[name] += 1
            for attribute in node.attribute:
                for body in (attribute.g, *attribute.graphs):
                    self._inner.update(name for inner in body.node for name in inner.input)
        self._nodes = list(model.graph.node)

    def find(self, kind: Kind) -> list[Pair]:
        """The pairs that ``kind`` can scale, in execution order."""
        found = []
        for node in self._nodes:
            pair = Pair(node)
            if self._produces(node, kind) and self._follow(node.output[0], pair, kind, plain=True) and pair.consumers:
                found.append(pair)
        return found

    def _produces(self, node: onnx.NodeProto, kind: Kind) -> bool:
        if (
            node.domain not in ("", "ai.onnx")
            or node.op_type != {"equalize": "Conv", "smooth": "LayerNormalization"}[kind]
        ):
            return False
        if kind == "smooth" and (_integer(node, "axis", -1) != -1 or len([name for name in node.output if name]) > 1):
            return False
        return all(self._own(name) for name in node.input[1:] if name)

    def _own(self, name: str) -> bool:
        """Whether a constant belongs to one node alone."""
        return name in self.weights and self._uses[name] == 1 and name not in self._inner and name not in self._outputs

    def _follow(self, tensor: str, pair: Pair, kind: Kind, *, plain: bool) -> bool:
        """Collect all that reads a tensor; False where a reader does more than scale with it.

        ``plain``: no activation has been passed yet.
        """
        readers = self._readers[tensor]
        if tensor in self._outputs or tensor in self._inner or not readers:
            return False
        if not all(self._activates(node, pair) for node in readers):
            pair.tensors.append(tensor)
        for node in readers:
            if node.domain not in ("", "ai.onnx") or node.input[0] != tensor or list(node.input).count(tensor) > 1:
                return False
            if self._consumes(node, kind):
                pair.consumers.append(node)
            elif kind == "smooth":
                if node.op_type != "Identity" or not self._follow(node.output[0], pair, kind, plain=plain):
                    return False
            elif self._activates(node, pair):
                if not plain or not self._clip(node, pair) or not self._follow(node.output[0], pair, kind, plain=False):
                    return False
            elif node.op_type in POOLING:
                if len([name for name in node.output if name]) > 1:
                    return False
                if not self._follow(node.output[0], pair, kind, plain=plain):
                    return False
            else:
                return False
        return True

    @staticmethod
    def _activates(node: onnx.NodeProto, pair: Pair) -> bool:
        return pair.producer.op_type == "Conv" and node.op_type in (*HOMOGENEOUS, "Clip")

    def _clip(self, node: onnx.NodeProto, pair: Pair) -> bool:
        """Note the end of a Clip that begins at 0; False for any other one. ReLU and its like always pass."""
        from onnx import numpy_helper

        if node.op_type != "Clip":
            return True
        ends = [self.weights.get(name) for name in [*node.input[1:], "", ""][:2]]
        if ends[0] is None or ends[1] is None or pair.limit is not None:
            return False
        low, high = (float(numpy_helper.to_array(end).item()) for end in ends if end is not None)
        pair.limit = high
        return low == 0.0 and high > 0.0

    def _consumes(self, node: onnx.NodeProto, kind: Kind) -> bool:
        if kind == "equalize":
            return node.op_type == "Conv" and self._own(node.input[1])
        if node.op_type == "MatMul":
            return self._own(node.input[1]) and len(self.weights[node.input[1]].dims) == 2
        return node.op_type == "Gemm" and self._own(node.input[1]) and not _integer(node, "transA", 0)


def columns(node: onnx.NodeProto, weight: Array, *, each: bool) -> tuple[Array, bool]:
    """Magnitude of a consumer's weights by input channel; and whether every output channel reads one input channel
    alone (depthwise). ``each``: output channels have scales of their own, so the largest weight of each counts as 1."""
    size = np.abs(weight.astype(np.float64))
    if node.op_type == "Conv":
        size = size.reshape(*size.shape[:2], -1).max(axis=2)
        groups = _integer(node, "group", 1)
        if each:
            size = size / np.maximum(size.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        parts = np.split(size, groups, axis=0)
        return np.concatenate([part.max(axis=0) for part in parts]), size.shape[1] == 1
    matrix = size.T if node.op_type == "Gemm" and _integer(node, "transB", 0) else size
    if each:
        matrix = matrix / np.maximum(matrix.max(axis=0, keepdims=True), np.finfo(np.float32).tiny)
    return matrix.max(axis=1), False


def multiply_columns(node: onnx.NodeProto, weight: Array, factors: Array) -> Array:
    """A consumer's weights with each input channel multiplied by its factor."""
    if node.op_type == "Conv":
        groups = _integer(node, "group", 1)
        each = np.repeat(factors.reshape(groups, -1), len(weight) // groups, axis=0)
        return np.asarray(weight * each.reshape(*each.shape, *[1] * (weight.ndim - 2)))
    transposed = node.op_type == "Gemm" and _integer(node, "transB", 0)
    return np.asarray(weight * (factors[None, :] if transposed else factors[:, None]))


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)
