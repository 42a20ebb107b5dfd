"""Learned rounding: for each weight, the step above or below is chosen so that the layer's result is nearest to
FP32's on real frames (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020).

The objective is AdaRound's, layer after layer, each on the rounded input that it will see. It depends on the inputs
through two matrices of sums of products, so the frames are seen once; and it is solved by coordinate descent from the
nearest steps instead of the paper's relaxation: a few products of matrices instead of thousands, never worse than the
nearest steps, and the same every time. The chosen steps are written into the FP32 graph: the weights then lie on their
grid, and every engine's writer rounds them to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.progress import Progress
from edgeship.repair.rounded import Layer, RoundedGraph, write_layer

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from edgeship.prepare.frame_checks import FrameBatch

    Array = NDArray[Any]

FRAMES = 16
"""Real frames that the layers are compared on …"""
PLACES = 128
"""… and places of each frame, spread evenly."""
SWEEPS = 3
"""How often every weight is looked at, at most."""
CAUTION = 0.01
"""Share of the inputs' mean square that is added to each: what a few frames say of their products is not exact."""
MOST = 1e10
"""Multiplications of a sweep over a layer; larger layers stay as they are."""


def learn_rounding(
    model: onnx.ModelProto, rounded: RoundedGraph, frames: Sequence[FrameBatch], progress: Progress
) -> int:
    """Choose the steps of all layers' weights, in place; how many layers have weights that are not the nearest.

    Args:
        model: The graph that ``rounded`` was opened with.
        frames: Real frames in batches.
    """
    changed = 0
    rounded.begin(frames)
    for position, layer in enumerate(rounded.layers):
        steps = _steps(layer, rounded)
        if steps is not None and (steps != layer.nearest()).any():
            changed += 1
            rounded.set_weight(layer, steps)
            write_layer(model, layer, steps * layer.scale, None)
        rounded.finish(layer, rounded.results(layer))
        progress(position + 1, len(rounded.layers), "learning to round")
    return changed


def _steps(layer: Layer, rounded: RoundedGraph) -> Array | None:
    """The chosen steps; None for a convolution of other than two dimensions, or too large a layer."""
    if layer.node.op_type == "Conv" and layer.weight.ndim != 4:
        return None
    weight = _as_matrices(layer, layer.weight.astype(np.float64) / layer.scale)
    groups, outputs, inputs = weight.shape
    if float(groups) * outputs * inputs * inputs > MOST:
        return None
    own, cross = np.zeros((groups, inputs, inputs)), np.zeros((groups, inputs, inputs))
    for found, wanted in rounded.inputs(layer):
        read, right = _patches(layer, found), _patches(layer, wanted)
        own += read.transpose(0, 2, 1) @ read
        cross += read.transpose(0, 2, 1) @ right
    scale = _as_matrices(layer, np.broadcast_to(layer.scale, layer.weight.shape))
    return _from_matrices(layer, choose(weight, scale, own, cross))


def choose(weight: Array, scale: Array, own: Array, cross: Array) -> Array:
    """Steps with a small squared error of the results, never a greater one than the nearest steps have.

    Args:
        weight: [groups, outputs, inputs], in steps.
        scale: Size of each weight's step.
        own: [groups, inputs, inputs], sums of products of the rounded inputs.
        cross: The same of rounded inputs (first axis) with FP32's.
    """
    slope = (weight * scale) @ (own - cross).transpose(0, 2, 1)
    squares = np.diagonal(own, axis1=1, axis2=2)
    own = own + np.eye(own.shape[1]) * (CAUTION * squares.mean(axis=1))[:, None, None]
    steps = np.clip(np.rint(weight), -127, 127)
    fixed = np.abs(steps) >= 127  # the largest weight of a channel makes its scale
    pull = ((steps - weight) * scale) @ own + slope
    for _ in range(SWEEPS):
        moved = 0
        for index in range(own.shape[1]):
            now = steps[:, :, index]
            other = np.where(now > weight[:, :, index], now - 1, now + 1)
            change = (other - now) * scale[:, :, index]
            gain = change * (change * own[:, index, index, None] + 2 * pull[:, :, index])
            group, output = np.nonzero((gain < 0) & ~fixed[:, :, index] & (np.abs(other - weight[:, :, index]) < 1))
            steps[group, output, index] = other[group, output]
            pull[group, output] += change[group, output, None] * own[group, index]
            moved += len(group)
        if not moved:
            break
    return np.asarray(steps)


def _as_matrices(layer: Layer, weight: Array) -> Array:
    """Weights as [groups, outputs, inputs]."""
    if layer.node.op_type == "Conv":
        return weight.reshape(_attribute(layer, "group", [1])[0], -1, weight[0].size)
    return (weight if layer.transposed else weight.T)[None]


def _from_matrices(layer: Layer, matrices: Array) -> Array:
    if layer.node.op_type == "Conv":
        return matrices.reshape(layer.weight.shape)
    return np.ascontiguousarray(matrices[0] if layer.transposed else matrices[0].T)


def _patches(layer: Layer, values: Array) -> Array:
    """What the weights are multiplied with at some places: [groups, places, inputs], float64."""
    if layer.node.op_type != "Conv":
        lines = values.reshape(-1, values.shape[-1])
        return lines[_spread(len(lines), PLACES * len(values))].astype(np.float64)[None]
    kernel = layer.weight.shape[2:]
    dilation, stride = _attribute(layer, "dilations", [1, 1]), _attribute(layer, "strides", [1, 1])
    top, left, bottom, right = _pads(layer, values.shape[2:], dilation, stride)
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    span = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
    height, width = ((size - part) // step + 1 for size, part, step in zip(padded.shape[2:], span, stride, strict=True))
    places = _spread(height * width, PLACES)
    rows = (places // width * stride[0])[:, None, None] + np.arange(kernel[0])[:, None] * dilation[0]
    columns = (places % width * stride[1])[:, None, None] + np.arange(kernel[1])[None, :] * dilation[1]
    cut = padded[:, :, rows, columns]  # [batch, channels, places, kernel, kernel]
    groups = _attribute(layer, "group", [1])[0]
    batch, channels = cut.shape[:2]
    cut = cut.reshape(batch, groups, channels // groups, len(places), -1).transpose(1, 0, 3, 2, 4)
    return cut.reshape(groups, batch * len(places), -1).astype(np.float64)


def _pads(layer: Layer, size: Sequence[int], dilation: list[int], stride: list[int]) -> list[int]:
    """Padding of a two-dimensional convolution: top, left, bottom, right."""
    automatic = next((item.s.decode() for item in layer.node.attribute if item.name == "auto_pad"), "NOTSET")
    if not automatic.startswith("SAME"):
        return _attribute(layer, "pads", [0, 0, 0, 0]) if automatic != "VALID" else [0, 0, 0, 0]
    begins, ends = [], []
    for length, part, gap, step in zip(size, layer.weight.shape[2:], dilation, stride, strict=True):
        whole = max((-(-length // step) - 1) * step + (part - 1) * gap + 1 - length, 0)
        less, more = whole // 2, whole - whole // 2
        begins.append(less if automatic == "SAME_UPPER" else more)
        ends.append(more if automatic == "SAME_UPPER" else less)
    return [*begins, *ends]


def _spread(total: int, count: int) -> Array:
    """``count`` positions of ``total``, spread evenly; all of them where they are fewer."""
    return np.arange(total) if total <= count else np.arange(count) * total // count


def _attribute(layer: Layer, name: str, default: list[int]) -> list[int]:
    for item in layer.node.attribute:
        if item.name == name:
            return list(item.ints) if item.ints else [item.i]
    return default
