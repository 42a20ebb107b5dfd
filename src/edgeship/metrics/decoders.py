"""Raw outputs of a model → predictions in the pixels of the image: one function for evaluation and the vehicle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.preprocess import Geometry
from edgeship.data.reference import is_reference
from edgeship.errors import DataError
from edgeship.metrics.predictions import Classification, Prediction, Raw

if TYPE_CHECKING:
    from edgeship.metrics import Array

    Outputs = Mapping[str, Array]


def decode_predictions(
    task: str,
    decoder: str | None,
    outputs: Outputs,
    geometries: Sequence[Geometry],
    settings: Evaluation,
    classes: Sequence[str],
) -> list[Prediction]:
    """Turn a batch of outputs into one prediction for each image.

    Args:
        task: classification, detection, segmentation, or ``module:callable``.
        decoder: Of ``Evaluation.decoder``; None: the task's default (``logits``).
        outputs: By name; the first axis is the batch. Rows beyond ``geometries`` are padding.
        geometries: How each image was placed in the input.
        settings: Thresholds and the choice of output.
        classes: Names in the order of the outputs.

    Raises:
        DataError: The outputs have a shape that the decoder does not take; the message names those that would.
    """
    names = tuple(classes)
    if task == "classification":
        scores = classification_scores(outputs, settings)
        if scores.shape[1] != len(names):
            raise _head_error(scores.shape[1], names)
        return [Classification(row, names) for row in scores[: len(geometries)]]
    if is_reference(task):
        return [Raw({name: value[row] for name, value in outputs.items()}) for row in range(len(geometries))]
    raise DataError(f"no decoder for the task {task!r}")


def head_classes(task: str, decoder: str | None, outputs: Outputs, settings: Evaluation) -> int | None:
    """How many classes the outputs have; None where their shape does not tell."""
    if task == "classification":
        return int(classification_scores(outputs, settings).shape[1])
    return None


def pick_output(outputs: Outputs, settings: Evaluation, rank: int | None = None) -> tuple[str, Array]:
    """The output that carries the prediction: ``settings.output``, or the only one (of that rank).

    Raises:
        DataError: No such output, or several without a choice.
    """
    if settings.output is not None:
        if settings.output not in outputs:
            raise DataError(f"evaluation.output is {settings.output!r}", expected=f"one of {describe(outputs)}")
        return settings.output, outputs[settings.output]
    fitting = [name for name, value in outputs.items() if rank is None or value.ndim == rank]
    if len(fitting) != 1:
        which = "none" if not fitting else f"{len(fitting)}"
        raise DataError(
            f"the model's outputs are {describe(outputs)}; {which} of them could carry the prediction",
            expected=f"one with {rank} axes" if rank else "one output",
            do="name it in evaluation.output, or choose another evaluation.decoder",
        )
    return fitting[0], outputs[fitting[0]]


def describe(outputs: Outputs) -> str:
    """Names and shapes of outputs, for messages."""
    return ", ".join(f"{name!r} {list(value.shape)}" for name, value in outputs.items())


def classification_scores(outputs: Outputs, settings: Evaluation) -> Array:
    """Probabilities float32 [n, C] from logits or probabilities; trailing axes of length 1 are dropped."""
    squeezed = {name: _drop_tail(value) for name, value in outputs.items()}
    name, values = pick_output(squeezed, settings, rank=2)
    if values.ndim != 2:
        raise DataError(f"output {name!r} has shape {list(values.shape)}", expected="[batch, classes]")
    if not np.isfinite(values).all():
        raise DataError(f"output {name!r} holds NaN or infinite values", do="edgeship parity names the first operator")
    values = values.astype(np.float32)
    if is_probability(values):
        return values
    return softmax(values, axis=1)


def is_probability(values: Array) -> bool:
    """Whether rows along axis 1 are probabilities already: none negative, each sum within 2 % of one."""
    if values.size == 0 or values.min() < 0:
        return False
    return bool(np.all(np.abs(values.sum(axis=1) - 1.0) < 0.02))


def softmax(values: Array, axis: int) -> Array:
    """Softmax without overflow."""
    shifted = np.exp(values - values.max(axis=axis, keepdims=True))
    result: Array = shifted / shifted.sum(axis=axis, keepdims=True)
    return result


def _drop_tail(value: Array) -> Array:
    while value.ndim > 2 and value.shape[-1] == 1:
        value = value[..., 0]
    return value


def _head_error(head: int, names: Sequence[Any]) -> DataError:
    return DataError(
        f"the model's output has {head} classes, {len(names)} class names were given",
        expected="one name for each output, in the order of the outputs",
        do="set evaluation.classes to the list the model was trained with",
    )
