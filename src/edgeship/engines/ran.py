"""What an engine really ran, node by node, and the audit of it: shared by the engines that tell what they run.

Optimized nodes carry names made from the user's (``r0_nchwc``, ``conv3_token_10``); they are followed back through the
candidate's graph.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeship.config import Precision
from edgeship.engines.onnx_file import Node
from edgeship.engines.products import (
    ACCEPTED,
    Product,
    convolution_macs,
    matches,
    product_macs,
    shares,
    transposed_macs,
)
from edgeship.results import Audit, AuditedLayer, EngineLayer

CONVOLUTIONS = (
    "Conv",
    "ConvTranspose",
    "FusedConv",
    "NhwcConv",
    "NhwcFusedConv",
    "QLinearConv",
    "QLinearConvTranspose",
    "ConvInteger",
    "GroupedConv",
)
PRODUCTS = (
    "MatMul",
    "Gemm",
    "FusedMatMul",
    "FusedGemm",
    "GemmFastGelu",
    "TransposeMatMul",
    "QLinearMatMul",
    "QGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "Attention",
    "QAttention",
    "MultiHeadAttention",
)
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
"""Counted apart, and not among the products."""
QUANTIZES = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
REFORMATS = ("ReorderInput", "ReorderOutput", "Transpose", "Cast", "MemcpyToHost", "MemcpyFromHost")
_KIND = dict.fromkeys(CONVOLUTIONS, "Conv") | dict.fromkeys(PRODUCTS, "MatMul")
_CARRYING = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape")
_MARKS = re.compile(r"(_token_\d+|_nchwc|_nhwc|_fp16|_kernel_time)+$")
_PREFIXES = re.compile(r"^(InsertedPrecisionFreeCast_|fused )+")


@dataclass(frozen=True)
class Ran:
    """One node as it ran: its kernel's operator, provider, precision and median time."""

    name: str
    operator: str
    provider: str
    precision: str
    touches: frozenset[str]
    """Precisions of all its tensors."""
    output: str
    """Precision of its first output; empty where it has none."""
    microseconds: float
    taken: tuple[int, ...] = ()
    """Shape of the first input; onnxruntime does not tell those of weights that it packed."""
    given: tuple[int, ...] = ()
    """Shape of the first output."""
    weights: tuple[int, ...] = ()
    """Shape of its weights as ONNX orders them, where the engine tells it."""
    fused: tuple[str, ...] = ()
    """Further names of nodes that became this one, where the engine tells them."""

    @property
    def kind(self) -> str | None:
        """``Conv`` or ``MatMul``; None for everything else."""
        return _KIND.get(self.operator)


class Origins:
    """From the name of an optimized node to the node of the candidate's graph that it came from."""

    def __init__(self, nodes: Iterable[Node], weights: Mapping[str, tuple[int, ...]] | None = None) -> None:
        nodes = tuple(nodes)
        self._weights = weights or {}
        self._by_name = {node.name: node for node in nodes if node.name}
        self._producer = {output: node for node in nodes for output in node.outputs}

    def of(self, ran: Ran) -> Node:
        """The node ``ran`` came from, or a node of its own name where that cannot be told."""
        plain = _PREFIXES.sub("", _MARKS.sub("", ran.name))
        own = self._by_name.get(ran.name) or self._by_name.get(plain) or self._producer.get(plain)
        known = [found for found in (own, *map(self._by_name.get, ran.fused)) if found is not None]
        alike = (found for found in known if ran.kind is not None and found.operator in _KIND)
        node = next(alike, next(iter(known), None))
        for _ in range(8):
            if node is None or ran.kind is None or node.operator in _KIND:
                break
            node = next((self._producer[name] for name in node.inputs if name in self._producer), None)
        return node or Node(plain or ran.operator, ran.operator, (), ())

    def macs(self, ran: Ran, node: Node) -> float | None:
        """Multiply-accumulates of a convolution or product; None where its shapes are not known."""
        weights = ran.weights or (self._stored(node.inputs[1]) if len(node.inputs) > 1 else ())
        if ran.kind == "Conv":
            if not weights:
                return None
            transposed = node.operator == "ConvTranspose"
            return transposed_macs(ran.taken, weights) if transposed else convolution_macs(ran.given, weights)
        if len(weights) == 2 and ran.given:
            return convolution_macs(ran.given, (1, math.prod(weights) // max(ran.given[-1], 1)))
        return product_macs(ran.taken, ran.given)

    def _stored(self, name: str) -> tuple[int, ...]:
        """The shape of the weights behind a tensor: through Q/DQ, casts and transposes."""
        for _ in range(8):
            if name in self._weights:
                return self._weights[name]
            node = self._producer.get(name)
            if node is None or node.operator not in _CARRYING or not node.inputs:
                break
            name = node.inputs[0]
        return ()


def audit_of(
    ran: tuple[Ran, ...], asked: Precision, keep: tuple[str, ...], origins: Origins, *, tf32: bool = False
) -> Audit:
    """Compare asked-for with achieved precision, layer by layer."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    missed: list[AuditedLayer] = []
    kept: list[str] = []
    overruled: list[str] = []
    products: list[Product] = []
    for item in ran:
        if item.operator in RECURRENT:
            counts["Recurrent"][item.precision] += 1
        if item.kind is None:
            continue
        counts[item.kind][item.precision] += 1
        node = origins.of(item)
        spared = matches(keep, (node.name,), (node.operator,))
        products.append(Product(item.precision, origins.macs(item, node), spared))
        if spared:
            kept.append(node.name)
            if item.precision == "int8":
                overruled.append(node.name)
        elif item.precision not in ACCEPTED[asked]:
            missed.append(AuditedLayer(name=node.name, operator=item.operator, precision=item.precision))
    found = shares(products, asked)
    notes = []
    if tf32 and asked == "fp32":
        notes.append("TF32 was allowed: fp32 convolutions and products may round their inputs to 10 bits of mantissa")
    if overruled:
        notes.append(f"kept on request, yet the engine runs them in INT8: {', '.join(overruled)}")
    if found.achieved is None:
        notes.append(f"no convolution or matrix product outside the kept ones: nothing to judge runs in {asked}")
    return Audit(
        source="profile",
        asked=asked,
        layers={kind: dict(each) for kind, each in sorted(counts.items())},
        achieved=1.0 if found.achieved is None and _only_float(ran, asked) else found.achieved,
        arithmetic=found.arithmetic,
        kept_share=found.kept,
        weighed_by=found.weighed_by,
        missed=tuple(missed),
        kept=tuple(kept),
        reformats=sum(item.operator in REFORMATS for item in ran),
        notes=tuple(notes + elsewhere(ran)),
        hottest=hottest(ran),
        order=tuple(layer_of(item, origins.of(item)) for item in ran),
    )


def layer_of(ran: Ran, node: Node) -> EngineLayer:
    """A node as it ran, as a layer of the engine; ``node``: what it came from."""
    role: Literal["product", "quantize", "reformat", "other"] = "other"
    if ran.kind is not None:
        role = "product"
    elif ran.operator in QUANTIZES:
        role = "quantize"
    elif ran.operator in REFORMATS:
        role = "reformat"
    return EngineLayer(
        name=ran.name,
        kind=ran.operator,
        precision=ran.precision,
        output=ran.output,
        role=role,
        nodes=(node.name,) if node.name else (),
        ms=ran.microseconds / 1000,
    )


def _only_float(ran: tuple[Ran, ...], asked: Precision) -> bool:
    """Whether fp32 was asked for and no node of any kind touches a lower precision."""
    return asked == "fp32" and not any(item.touches & {"fp16", "bf16", "int8"} for item in ran)


def hottest(ran: tuple[Ran, ...], count: int = 8) -> tuple[tuple[str, float], ...]:
    """The operator kinds that take the most time, with their share of it."""
    time: dict[str, float] = defaultdict(float)
    for item in ran:
        time[f"{item.operator} {item.precision}".strip()] += item.microseconds
    total = sum(time.values()) or 1.0
    longest = sorted(time.items(), key=lambda pair: -pair[1])
    return tuple((kind, round(spent / total, 4)) for kind, spent in longest[:count])


def elsewhere(ran: tuple[Ran, ...]) -> list[str]:
    """A note when nodes ran on a provider beside the main one."""
    providers = Counter(item.provider.removesuffix("ExecutionProvider") for item in ran)
    if len(providers) < 2:
        return []
    return ["nodes by provider: " + ", ".join(f"{name} {count}" for name, count in providers.most_common())]
