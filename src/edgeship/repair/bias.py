"""Bias correction (Nagel et al. 2019, empirical form): the mean error that rounding leaves in each channel is taken out
of the bias of the layer.

Layer after layer in order, each with the rounded and corrected layers before it. Correcting all layers at once by
errors that were measured together counts the error of a layer again in every layer behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeship.progress import Progress
from edgeship.repair.rounded import RoundedGraph, write_layer

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import Array, FrameBatch

FRAMES = 16
"""Real frames that the errors are measured on."""


def correct_biases(
    model: onnx.ModelProto, rounded: RoundedGraph, frames: Sequence[FrameBatch], progress: Progress
) -> int:
    """Correct the biases of the FP32 graph, in place; how many layers were corrected.

    Args:
        model: The graph that ``rounded`` was opened with.
        frames: Real frames in batches.
    """
    corrected = 0
    rounded.begin(frames)
    for position, layer in enumerate(rounded.layers):
        results = rounded.results(layer)
        if layer.bias is not None:
            errors = [layer.mean_of(found) - layer.mean_of(right) for found, right in results]
            error = certain(np.concatenate(errors))
            bias = (layer.bias - error).astype(np.float32)
            write_layer(model, layer, layer.weight, bias)
            corrected += 1
            shape = [-1 if axis == layer.axis % results[0][0].ndim else 1 for axis in range(results[0][0].ndim)]
            moved = (bias - layer.bias).reshape(shape)
            results = [(found + moved, right) for found, right in results]
        rounded.finish(layer, results)
        progress(position + 1, len(rounded.layers), "correcting biases")
    return corrected


def certain(errors: Array) -> Array:
    """The mean over rows of ``errors`` [rows, channels], shrunk by what of it is chance (James and Stein 1961,
    positive part): frames that disagree about an error say little about other frames."""
    mean = errors.mean(axis=0)
    if len(errors) < 2:
        return np.asarray(mean)
    chance = errors.var(axis=0, ddof=1) / len(errors)
    share = np.clip(1.0 - chance / np.maximum(np.square(mean), np.finfo(np.float64).tiny), 0.0, 1.0)
    return np.asarray(mean * share)
