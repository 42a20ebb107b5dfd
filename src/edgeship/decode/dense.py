"""Dense outputs: scores to probabilities, logits to class maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edgeship.errors import OutputError

if TYPE_CHECKING:
    from edgeship.metrics import Array


def describe(outputs: Mapping[str, Array]) -> str:
    """Names and shapes of outputs, for messages."""
    return ", ".join(f"{name!r} {list(value.shape)}" for name, value in outputs.items())


def is_probability(values: Array) -> bool:
    """Whether rows [n, C] are probabilities already: none negative, each sum within 2 % of one."""
    if values.size == 0 or values.min() < 0:
        return False
    return bool(np.all(np.abs(values.sum(axis=1) - 1.0) < 0.02))


def softmax(values: Array) -> Array:
    """Softmax of rows [n, C] without overflow."""
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def recognise(decoder: str | None, outputs: Mapping[str, Array]) -> tuple[str, str]:
    """Which output of a segmentation net to read, and whether as ``logits`` or as ``classmap``.

    Raises:
        OutputError: None fits, or several do.
    """
    fitting = [
        (name, kind) for name, value in outputs.items() for kind in _kinds(value) if decoder is None or kind == decoder
    ]
    if len(fitting) == 1:
        return fitting[0]
    others = sorted({kind for value in outputs.values() for kind in _kinds(value)})
    if not fitting:
        fractions = [name for name, value in outputs.items() if value.ndim == 3 and not _whole(value)]
        note = f"; the values of {fractions[0]!r} are not whole numbers, so it is not a classmap" if fractions else ""
        raise OutputError(
            (f"the decoder {decoder!r} does not fit" if decoder else "no decoder for segmentation fits")
            + f" the outputs {describe(outputs)}{note}",
            expected="logits [batch, classes, h, w] or a classmap [batch, h, w] of whole numbers",
            do=f'set evaluation.decoder = "{others[0]}"'
            if others
            else 'export scores as [batch, classes, h, w] for the decoder "logits", or write one as module:callable',
        )
    raise OutputError(
        f"several outputs could carry the prediction: {describe(outputs)}", do="name one in evaluation.output"
    )


def _kinds(value: Array) -> list[str]:
    if value.ndim == 3:
        return ["classmap"] if _whole(value) else []
    if value.ndim == 4 and value.shape[1] == 1 and np.issubdtype(value.dtype, np.integer):
        return ["classmap"]
    return ["logits"] if value.ndim == 4 else []


def _whole(value: Array) -> bool:
    return bool(np.issubdtype(value.dtype, np.integer)) or bool((value == np.rint(value)).all())


def class_map(logits: Array, size: tuple[int, int], scores: str = "auto") -> Array:
    """The best class of each pixel: int16 [H, W].

    Logits of a coarser stride are resized to ``size`` first, bilinearly with pixel centres at half integers
    (``align_corners=False``). One channel alone is foreground against background: a logit above 0, or a
    probability above 0.5, as ``scores`` (of ``Evaluation.scores``) says.

    Raises:
        OutputError: One channel alone, and nothing says which of the two it holds: values of one image do not.
    """
    if logits.shape[0] == 1:
        if scores == "auto":
            raise OutputError(
                "the output has one channel, and nothing says whether it holds logits or probabilities",
                expected="the model's ONNX file, whose end tells, or the setting",
                do='set evaluation.scores = "probabilities" where the model ends in a sigmoid, else "logits"',
            )
        return (_resized(logits[0], size) > (0.5 if scores == "probabilities" else 0.0)).astype(np.int16)
    best = _resized(logits[0], size)
    chart = np.zeros(best.shape, dtype=np.int16)
    for channel in range(1, logits.shape[0]):
        values = _resized(logits[channel], size)
        np.copyto(chart, np.int16(channel), where=values > best)
        best = np.maximum(best, values)
    return chart


def _resized(plane: Array, size: tuple[int, int]) -> Array:
    values = np.ascontiguousarray(plane, dtype=np.float32)
    if values.shape == size:
        return values
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR))
