"""Cross-layer equalization (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
2019) and SmoothQuant (Xiao et al., 2023): factors of channels move from one layer into the next.

Where weights have a scale for each output channel, it is the activation between the layers that has one scale for
channels of uneven range: the factors come from the activation's range by channel on real frames. Where weights have one
scale for all channels, the factors even the weights of both layers, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.prepare.running import Running
from edgeship.repair.pairs import Kind, Pair, Pairs, columns, multiply_columns

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgeship.prepare.frame_checks import FrameBatch

    Array = NDArray[Any]

LARGEST = 64.0
"""No channel is scaled by more than this against the widest one: what is that small is noise."""
HEADROOM = 1.25
"""Below a Clip's end a channel is not raised nearer to it than this: frames to come reach further than those seen."""
EVEN = 1.05
"""A pair whose factors differ by no more than this stays as it is."""


def scale_pairs(model: onnx.ModelProto, frames: Sequence[FrameBatch], kind: Kind, *, per_channel: bool = True) -> int:
    """Move factors of channels between layers, in place; how many pairs were changed.

    Args:
        model: The FP32 graph with named nodes and constants as initializers.
        frames: Real frames, to see the range of each channel.
        per_channel: Whether weights get a scale for each output channel.
    """
    pairs = Pairs(model)
    found = pairs.find(kind)
    ranges = channel_ranges(model, found, (feeds for _, feeds in frames)) if found else []
    changed = 0
    for pair, seen in zip(found, ranges, strict=True):
        factors = _factors(pair, seen, pairs.weights, per_channel=per_channel)
        if factors.max() > EVEN * factors.min():
            _apply(pair, factors, pairs.weights)
            changed += 1
    return changed


def channel_ranges(model: onnx.ModelProto, pairs: Sequence[Pair], feeds: Iterable[Mapping[str, Array]]) -> list[Array]:
    """For each pair, the largest magnitude of every channel of its tensors over all frames."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair.tensors))
    running = Running(model, layout=True, also=names)
    axes = {name: pair.axis for pair in pairs for name in pair.tensors}
    seen: dict[str, Array] = {}
    for batch in feeds:
        for name, values in zip(names, running.run(names, batch), strict=True):
            axis = axes[name] % values.ndim
            peak = np.abs(values).max(axis=tuple(index for index in range(values.ndim) if index != axis))
            seen[name] = np.maximum(seen[name], peak) if name in seen else peak
    return [np.max([seen[name] for name in pair.tensors], axis=0).astype(np.float64) for pair in pairs]


def _factors(pair: Pair, seen: Array, weights: Mapping[str, onnx.TensorProto], *, per_channel: bool) -> Array:
    """What each channel of the producer is divided by, and its readers' weights multiplied with."""
    widest = float(seen.max(initial=0.0))
    if widest <= 0.0:
        return np.ones_like(seen)
    own = _array(weights[pair.producer.input[1]])
    size = np.abs(own).reshape(len(own), -1).max(axis=1)
    given = _even(seen if per_channel or pair.producer.op_type != "Conv" else size)
    read = [columns(node, _array(weights[node.input[1]]), each=per_channel) for node in pair.consumers]
    if per_channel and all(alone for _, alone in read):
        factors = given
    else:  # what one side gains the other loses: half of it each
        size = np.max([value for value, alone in read if not (alone and per_channel)], axis=0)
        factors = np.sqrt(given / _even(size))
        factors = factors * float((seen / factors).max()) / widest  # the activation's range stays
    factors = np.maximum(factors, factors.max() / LARGEST)
    if pair.limit is None:
        return np.asarray(factors)
    least = np.minimum(1.0, seen * HEADROOM / pair.limit)
    return np.asarray(np.where(seen >= pair.limit, 1.0, np.clip(factors, least, 1.0)))


def _even(size: Array) -> Array:
    """Magnitudes as shares of the largest, not below 1 / :data:`LARGEST`."""
    return np.asarray(np.maximum(size / max(float(size.max()), float(np.finfo(np.float32).tiny)), 1.0 / LARGEST))


def _apply(pair: Pair, factors: Array, weights: Mapping[str, onnx.TensorProto]) -> None:
    producer = pair.producer
    for slot, name in enumerate(producer.input[1:]):
        if name:
            array = _array(weights[name])
            shape = (-1, *[1] * (array.ndim - 1)) if producer.op_type == "Conv" and slot == 0 else (-1,)
            _store(weights[name], array / factors.reshape(shape))
    for node in pair.consumers:
        name = node.input[1]
        _store(weights[name], multiply_columns(node, _array(weights[name]), factors))


def _array(tensor: onnx.TensorProto) -> Array:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor).astype(np.float64)


def _store(tensor: onnx.TensorProto, values: Array) -> None:
    """Put values into an initializer, in its type."""
    from onnx import numpy_helper

    kind = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(values.astype(kind), tensor.name))
