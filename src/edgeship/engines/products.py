"""Convolutions and matrix products as every engine's audit counts them: by their multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from edgeship.config import Precision

ACCEPTED: dict[Precision, frozenset[str]] = {
    "fp32": frozenset({"fp32", "tf32"}),
    "fp16": frozenset({"fp16"}),
    "bf16": frozenset({"bf16"}),
    "int8": frozenset({"int8"}),
    "int8-fp16": frozenset({"int8"}),
    "int8-fp32": frozenset({"int8"}),
    "fp8": frozenset({"fp8"}),
    "implicit": frozenset({"int8"}),
}
"""What a convolution or matrix product must run in for each asked-for precision."""
Shape = Sequence[int]


@dataclass(frozen=True)
class Product:
    """One convolution or matrix product as it runs.

    ``macs``: its multiply-accumulates for one batch; None where the engine does not tell the shapes.
    """

    precision: str
    macs: float | None
    kept: bool = False


@dataclass(frozen=True)
class Shares:
    """Shares of the arithmetic, 0 to 1; None where nothing could be judged."""

    achieved: float | None
    """In the asked-for precision, of the products outside the kept ones."""
    arithmetic: float | None
    """In the asked-for precision, of all products, kept ones included."""
    kept: float | None
    """Kept in high precision on request, of all products."""
    weighed_by: Literal["multiply-accumulates", "count"]


def shares(products: Sequence[Product], asked: Precision) -> Shares:
    """Weigh products by their multiply-accumulates; each counts as one where any of them is not known."""
    known = all(item.macs is not None and math.isfinite(item.macs) and item.macs > 0 for item in products)
    weighed = [(item, (item.macs or 0.0) if known else 1.0) for item in products]
    everything = sum(weight for _, weight in weighed)
    judged = sum(weight for item, weight in weighed if not item.kept)
    right = sum(weight for item, weight in weighed if item.precision in ACCEPTED[asked])
    right_judged = sum(weight for item, weight in weighed if item.precision in ACCEPTED[asked] and not item.kept)
    return Shares(
        achieved=right_judged / judged if judged else None,
        arithmetic=right / everything if everything else None,
        kept=1.0 - judged / everything if everything else None,
        weighed_by="multiply-accumulates" if known and products else "count",
    )


def convolution_macs(output: Shape, weights: Shape) -> float | None:
    """Of a convolution: ``output`` [batch, channels, …], ``weights`` [channels, channels in a group, kernel …]."""
    return _volume(output) * _volume(weights[1:]) if _whole(output) and _whole(weights) else None


def transposed_macs(taken: Shape, weights: Shape) -> float | None:
    """Of a transposed convolution: ``taken`` [batch, channels, …], ``weights`` [channels, out of a group, …]."""
    return _volume(taken) * _volume(weights[1:]) if _whole(taken) and _whole(weights) else None


def product_macs(left: Shape, output: Shape) -> float | None:
    """Of a matrix product [… M, K] · [… K, N] → [… M, N]; ``left`` may be transposed."""
    if not (_whole(left) and _whole(output)):
        return None
    rows = _volume(output[:-1])
    inner, rest = divmod(_volume(left), rows)
    return _volume(output) * (inner if not rest and inner else left[-1])


def matches(patterns: Sequence[str], names: Sequence[str], operators: Sequence[str]) -> bool:
    """Whether a pattern of the user's names a node: its name, a shell pattern of it, or ``op:Kind``."""
    return any(
        any(fnmatchcase(operator, pattern[3:]) for operator in operators)
        if pattern.startswith("op:")
        else any(pattern == name or fnmatchcase(name, pattern) for name in names)
        for pattern in patterns
    )


def _whole(shape: Shape) -> bool:
    return len(shape) > 0 and all(isinstance(axis, int) and axis > 0 for axis in shape)


def _volume(shape: Shape) -> float:
    return float(math.prod(shape))
