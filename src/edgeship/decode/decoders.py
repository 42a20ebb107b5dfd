"""Raw outputs of a model → predictions in the pixels of the image: one function for evaluation and the vehicle.

==============  ==============================================================================================
classification  ``logits`` [batch, classes]: logits or probabilities
detection       ``yolox``, ``ultralytics``, ``detr``, ``nms``, ``nms-image``: see :mod:`edgeship.decode.detectors`
instances       ``ultralytics-seg``, ``mask-rcnn``: see :mod:`edgeship.decode.instances`
keypoints       ``ultralytics-pose``: see :mod:`edgeship.decode.keypoints`
rotated         ``ultralytics-obb``, ``db``: see :mod:`edgeship.decode.rotated`
text            ``ctc`` [batch, steps, symbols]; embeddings: ``vector`` [batch, size]: see :mod:`edgeship.decode.lines`
segmentation    ``logits`` [batch, classes, h, w] at any stride, ``classmap`` [batch, h, w] or [batch, 1, h, w]
any             ``module:callable``: gets the outputs of one image (a dict, without the batch axis) and its
                Geometry; returns scores [classes], ``(boxes xyxy in image pixels, scores, labels)``, the same and
                masks [N, height, width] or points [N, K, 3] or corners [N, 4, 2], a mask, a text or a vector
==============  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation
from edgeship.data.preprocess import Geometry
from edgeship.data.reference import is_reference, resolve
from edgeship.decode import dense
from edgeship.decode.boxes import Candidates, nms
from edgeship.decode.depth import depths
from edgeship.decode.detectors import ASKED_FOR, DECODERS, Head
from edgeship.decode.instances import INSTANCES, own_instances
from edgeship.decode.keypoints import KEYPOINTS, own_keypoints
from edgeship.decode.lines import embeddings, texts
from edgeship.decode.predictions import (
    Classification,
    Depth,
    Detection,
    Embedding,
    Prediction,
    Raw,
    Segmentation,
    Several,
    Text,
)
from edgeship.decode.rotated import own_rotated, rotated_heads
from edgeship.errors import DataError, EngineError, OutputError
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from edgeship.metrics import Array

Outputs = Mapping[str, "Array"]
Heads = Mapping[str, Callable[[Outputs, Geometry, int], Head | None]]
HEADS: dict[str, Heads] = {
    "detection": DECODERS,
    "instances": INSTANCES,
    "keypoints": KEYPOINTS,
    "rotated": rotated_heads(Evaluation()),
}
"""Decoders of objects, by task."""
KNOWN = {
    "classification": ("logits",),
    **{task: tuple(table) for task, table in HEADS.items()},
    "segmentation": ("logits", "classmap"),
    "depth": ("map",),
    "text": ("ctc",),
    "embeddings": ("vector",),
}


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
        decoder: Of ``Evaluation.decoder``; None: the only one that fits the shapes of the outputs.
        outputs: By name; the first axis is the batch. Rows beyond ``geometries`` are padding.
        geometries: How each image was placed in the input.
        settings: Thresholds and the choice of output.
        classes: Names in the order of the outputs.

    Raises:
        DataError: No decoder of that name.
        OutputError: The outputs have a shape that the decoder does not take (the message names those that would), or
            values that are not a class or a box.
        EngineError: The outputs hold NaN or infinite values.
    """
    names = tuple(classes)
    chosen = _chosen(outputs, settings)
    if is_reference(task):
        return [Raw(_row(chosen, row), geometry) for row, geometry in enumerate(geometries)]
    if decoder is not None and is_reference(decoder):
        own = resolve(decoder)

        def ask(row: int, geometry: Geometry) -> Prediction:
            return _own(task, decoder, own(_row(chosen, row), geometry), geometry, names)

        return _by_row(ask, geometries)
    _check_name(task, decoder)
    _check_finite(chosen)
    if task == "classification":
        scores = classification_scores(chosen, settings.scores)
        if scores.shape[1] != len(names):
            raise _head_error(scores.shape[1], names)
        return [Classification(row, names) for row in scores[: len(geometries)]]
    if task == "depth":
        return list(depths(chosen, geometries))
    if task == "text":
        return list(texts(chosen, len(geometries), names, settings.ctc_blank))
    if task == "embeddings":
        return list(embeddings(chosen, len(geometries)))
    if task == "segmentation":
        return _segmentations(decoder, chosen, geometries, names, settings.scores)
    return _detections(task, decoder, chosen, geometries, settings, names)


def decode_all(
    outputs: Outputs, geometries: Sequence[Geometry], settings: Evaluation, classes: Sequence[str]
) -> list[Prediction]:
    """As :func:`decode_predictions`, by the settings' own task, or by each of its tasks: :class:`Several` then.

    ``classes`` of several tasks carry their task's name: ``boxes.person``.
    """
    if not settings.tasks:
        return decode_predictions(settings.task, settings.decoder, outputs, geometries, settings, classes)
    parts = {
        name: decode_all(
            outputs, geometries, item, [each.partition(".")[2] for each in classes if each.startswith(f"{name}.")]
        )
        for name, item in settings.tasks.items()
    }
    return [
        Several({name: rows[place] for name, rows in parts.items()})  # type: ignore[misc]
        for place in range(len(geometries))
    ]


def head_classes(task: str, decoder: str | None, outputs: Outputs, settings: Evaluation) -> int | None:
    """How many classes the outputs have; None where their shape does not tell."""
    if decoder is not None and is_reference(decoder):
        return None
    if task not in ("classification", "segmentation"):
        return None
    _check_name(task, decoder)
    chosen = _chosen(outputs, settings)
    _check_finite(chosen)
    if task == "classification":
        return int(classification_scores(chosen).shape[1])
    name, kind = dense.recognise(decoder, chosen)
    channels = chosen[name].shape[1] if kind == "logits" else 0
    return channels if channels > 1 else None


def _chosen(outputs: Outputs, settings: Evaluation) -> Outputs:
    names = settings.outputs or (() if settings.output is None else (settings.output,))
    for name in names:
        if name not in outputs:
            raise OutputError(f"evaluation.output is {name!r}", expected=f"one of {dense.describe(outputs)}")
    return {name: outputs[name] for name in names} or outputs


def _by_row(ask: Callable[[int, Geometry], Prediction], geometries: Sequence[Geometry]) -> list[Prediction]:
    """The prediction of each image; an error says which one it concerns."""
    found = []
    for row, geometry in enumerate(geometries):
        try:
            found.append(ask(row, geometry))
        except DataError as error:
            error.row = row
            raise
    return found


def _row(outputs: Outputs, row: int) -> dict[str, Array]:
    return {name: value[row].copy() for name, value in outputs.items()}  # the user's code may write into them


def _check_name(task: str, decoder: str | None) -> None:
    if task not in KNOWN:
        raise DataError(f"no decoder for the task {task!r}", expected=", ".join(KNOWN))
    if decoder is not None and decoder not in KNOWN[task]:
        raise DataError(
            f"evaluation.decoder is {did_you_mean(decoder, KNOWN[task])}",
            expected=f"{', '.join(KNOWN[task])} or module:callable for {task}",
        )


def _check_finite(outputs: Outputs) -> None:
    for name, value in outputs.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise EngineError(
                f"output {name!r} holds NaN or infinite values on real images",
                do="in FP16, a value left its range: keep the layer that overflows in FP32; in FP32, the model itself "
                "computes them",
            )


def classification_scores(outputs: Outputs, scores: str = "auto") -> Array:
    """Probabilities float32 [n, C] from logits or probabilities, as ``scores`` or else the values say.

    Trailing axes of length 1 are dropped.
    """
    squeezed = {name: _drop_tail(value) for name, value in outputs.items()}
    fitting = [value for value in squeezed.values() if value.ndim == 2]
    if len(fitting) != 1:
        raise OutputError(
            f"the model's outputs are {dense.describe(outputs)}; {len(fitting) or 'none'} of them could be the logits",
            expected="one output [batch, classes]",
            do="name it in evaluation.output" if fitting else "check evaluation.task",
        )
    values = fitting[0].astype(np.float32)
    whole = dense.is_probability(values) if scores == "auto" else scores == "probabilities"
    return values if whole else dense.softmax(values)


def _drop_tail(value: Array) -> Array:
    while value.ndim > 2 and value.shape[-1] == 1:
        value = value[..., 0]
    return value


def _segmentations(
    decoder: str | None, outputs: Outputs, geometries: Sequence[Geometry], names: tuple[str, ...], scores: str
) -> list[Prediction]:
    name, kind = dense.recognise(decoder, outputs)
    values = outputs[name]
    if kind == "logits" and values.shape[1] != len(names) and not (values.shape[1] == 1 and len(names) == 2):
        raise _head_error(values.shape[1], names)

    def ask(row: int, geometry: Geometry) -> Prediction:
        if kind == "logits":
            chart = dense.class_map(values[row], (geometry.input_height, geometry.input_width), scores)
        else:
            chart = np.rint(values[row].reshape(values.shape[-2:])).astype(np.int32)
            _check_chart(f"output {name!r}", chart, names)
        return Segmentation(geometry.mask_to_image(chart.astype(np.int16), outside=-1), names)

    return _by_row(ask, geometries)


def _detections(
    task: str,
    decoder: str | None,
    outputs: Outputs,
    geometries: Sequence[Geometry],
    settings: Evaluation,
    names: tuple[str, ...],
) -> list[Prediction]:
    if not geometries:
        return []
    table = HEADS[task]
    if task == "keypoints" and settings.kpt_shape is not None:
        table = {name: partial(take, told=settings.kpt_shape[1]) for name, take in KEYPOINTS.items()}
    elif task == "rotated":
        table = rotated_heads(settings)
    head = _head(table, decoder, outputs, geometries[0], names)
    if head.told is not None and settings.box_values != "auto":
        head = head.told(settings.box_values == "raw")
    return _by_row(lambda row, geometry: _detect(head, row, geometry, settings, names), geometries)


def _head(table: Heads, decoder: str | None, outputs: Outputs, geometry: Geometry, names: tuple[str, ...]) -> Head:
    asked = table[decoder](outputs, geometry, len(names)) if decoder else None
    if asked is not None and asked.classes in (None, len(names)):
        return asked
    heads = {key: take(outputs, geometry, len(names)) for key, take in table.items() if key not in ASKED_FOR}
    fitting = [key for key, head in heads.items() if head and head.classes in (None, len(names))]
    only = heads[fitting[0]] if decoder is None and len(fitting) == 1 else None
    if only is not None:
        return only
    would = " or ".join(fitting) or "none of the built-in ones: write module:callable"
    if asked is not None and asked.classes is not None and not fitting:
        raise _head_error(asked.classes, names)
    raise OutputError(
        (f"the decoder {decoder!r} does not fit" if decoder else "no decoder is set for")
        + f" the outputs {dense.describe(outputs)} with {len(names)} class names",
        expected=f"a decoder that fits: {would}",
        do="set evaluation.decoder, and evaluation.output where the model has several",
    )


def _detect(head: Head, row: int, geometry: Geometry, settings: Evaluation, names: tuple[str, ...]) -> Detection:
    found = head.decode(row, settings.score_threshold)
    boxes, scores, labels, extra = found
    if head.suppressor is not None:
        kept = head.suppressor(found, settings.nms_iou, settings.max_detections)
    elif head.suppress:
        kept = nms(boxes, scores, labels, settings.nms_iou, settings.max_detections)
    else:
        kept = np.argsort(-scores, kind="stable")[: settings.max_detections]
    labels = labels[kept]
    if len(labels) and labels.max() >= len(names):
        raise OutputError(
            f"the model found a class numbered {labels.max()}, {len(names)} class names were given",
            expected="one name for each output, the background included where the model counts it",
            do="set evaluation.classes to the list the model was trained with",
        )
    whole = np.tile([geometry.width, geometry.height], 2)
    placed = np.clip(boxes[kept], 0, whole) if head.in_image else geometry.boxes_to_image(boxes[kept])
    inside = (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])
    answer = Detection(placed[inside], scores[kept][inside], labels[inside], names)
    if head.shape is None:
        return answer
    rows = kept[inside]
    own = Candidates(boxes[rows], scores[rows], found.labels[rows], None if extra is None else extra[rows])
    return head.shape(answer, own, row, geometry)


def _own(task: str, decoder: str, value: Any, geometry: Geometry, names: tuple[str, ...]) -> Prediction:
    """What a decoder of the user's own returned, checked."""
    if task == "classification":
        scores = np.asarray(value, dtype=np.float32)
        if scores.shape != (len(names),):
            raise OutputError(f"{decoder} returned shape {list(scores.shape)}", expected=f"[{len(names)}] scores")
        _check_own(decoder, scores=scores)
        return Classification(scores, names)
    if task == "text":
        return Text(str(value))
    if task == "embeddings":
        vector = np.asarray(value, dtype=np.float32)
        _check_own(decoder, vector=vector)
        return Embedding(vector.ravel())
    if task == "depth":
        metres = np.asarray(value, dtype=np.float32)
        if metres.shape != (geometry.height, geometry.width):
            expected = f"a map [{geometry.height}, {geometry.width}]"
            raise OutputError(f"{decoder} returned shape {list(metres.shape)}", expected=expected)
        _check_own(decoder, metres=metres)
        return Depth(metres)
    if task == "segmentation":
        mask = np.asarray(value)
        if mask.shape != (geometry.height, geometry.width):
            raise OutputError(
                f"{decoder} returned shape {list(mask.shape)}", expected=f"a mask [{geometry.height}, {geometry.width}]"
            )
        _check_own(decoder, mask=mask)
        _check_chart(f"the mask of {decoder}", mask, names, least=-1)
        return Segmentation(mask.astype(np.int16), names)
    parts = ("boxes [N, 4]", "scores [N]", "labels [N]", *OWN_PARTS.get(task, ()))
    if not isinstance(value, tuple) or len(value) != len(parts):
        raise OutputError(f"{decoder} returned {type(value).__name__}", expected=f"({', '.join(parts)})")
    boxes = np.asarray(value[0], dtype=np.float32).reshape(-1, 4)
    scores, labels = np.asarray(value[1], dtype=np.float32), np.asarray(value[2], dtype=np.int64)
    if not len(boxes) == len(scores) == len(labels) or (
        len(labels) and not 0 <= labels.min() <= labels.max() < len(names)
    ):
        raise OutputError(
            f"{decoder} returned {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels",
            expected=f"as many of each, labels in 0..{len(names) - 1}",
        )
    _check_own(decoder, boxes=boxes, scores=scores)
    order = np.argsort(-scores, kind="stable")
    found = Detection(boxes[order], scores[order], labels[order], names)
    if task not in OWN_PARTS:
        return found
    own = np.asarray(value[3])
    if len(own) != len(boxes):
        raise OutputError(
            f"{decoder} returned {len(boxes)} boxes and {len(own)} of {parts[3]}", expected="as many of each"
        )
    if not len(boxes):
        own = np.zeros({"instances": (0, geometry.height, geometry.width), "keypoints": (0, 0, 3)}.get(task, (0, 4, 2)))
    if task == "instances":
        return own_instances(decoder, found, own[order], geometry)
    if task == "keypoints":
        return own_keypoints(decoder, found, own[order])
    return own_rotated(decoder, found, own[order].astype(np.float64))


def _check_own(decoder: str, **values: Array) -> None:
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise OutputError(f"{decoder} returned {name} with NaN or infinite values", expected="finite numbers")


def _check_chart(what: str, chart: Array, names: Sequence[str], least: int = 0) -> None:
    if chart.size and (chart.min() < least or chart.max() >= len(names)):
        stray = chart.max() if chart.max() >= len(names) else chart.min()
        raise OutputError(
            f"{what} holds class {stray:g}, {len(names)} class names were given",
            expected="one name for each class of the output",
            do="set evaluation.classes to the list the model was trained with",
        )


def _head_error(head: int, names: Sequence[str]) -> OutputError:
    return OutputError(
        f"the model's output has {head} classes, {len(names)} class names were given",
        expected="one name for each output, in the order of the outputs",
        do="set evaluation.classes to the list the model was trained with",
    )


OWN_PARTS = {
    "instances": ("masks [N, height, width]",),
    "keypoints": ("points [N, K, 3]",),
    "rotated": ("corners [N, 4, 2]",),
}
"""What a decoder of one's own gives beside boxes, scores and labels."""
Decoder = Callable[[dict[str, Any], Geometry], Any]
"""The signature of a decoder of one's own."""
