"""Decoders of detection heads: which outputs they take, and boxes from them.

==============  ====================================================================================================
yolox           one output [batch, anchors, 5 + classes]: centre, size, objectness, classes; raw (grid still to be
                applied, strides 8, 16, 32, and 64 where the anchors say so) or already decoded to pixels
ultralytics     one output [batch, 4 + classes, anchors] (v8, v11): centre and size in input pixels, class scores;
                its end-to-end variant [batch, detections, 6] is ``nms``
detr            logits [batch, queries, classes (+ 1 for "no object")] and boxes [batch, queries, 4] (centre and
                size, 0..1); softmax where the last class is "no object", sigmoid else
nms             boxes that have been through suppression: [batch, detections, 6] (x1, y1, x2, y2, score, class), or
                boxes [batch, n, 4], scores [batch, n] and labels [batch, n], perhaps a count [batch] of valid rows
nms-image       the same with boxes in the pixels of the image as it was before preprocessing, as RT-DETR and D-FINE
                give them where they are told its size (``[inputs.orig_target_sizes]``); never chosen by itself
==============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeship.data.preprocess import Geometry
from edgeship.decode.boxes import Candidates, above, best_class, corners, sigmoid, yolox_grid
from edgeship.decode.predictions import Detection

if TYPE_CHECKING:
    from edgeship.metrics import Array

Outputs = Mapping[str, "Array"]

LARGEST_LOG = 12.0
"""Logarithms of sizes are cut here: a broken INT8 head must not overflow."""
YOLOX_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))


@dataclass(frozen=True)
class Head:
    """Outputs that a decoder recognised: ``classes`` in the head (None: not told), ``decode`` for row ``i``."""

    classes: int | None
    decode: Callable[[int, float], Candidates]
    suppress: bool
    in_image: bool = False
    """Boxes are in pixels of the image, not of the network's input."""
    shape: Callable[[Detection, Candidates, int, Geometry], Detection] | None = None
    """From the boxes that were kept, in image pixels, and what the decoder gave of them, of row ``i``: the prediction
    with their shapes. None: boxes are all."""
    suppressor: Callable[[Candidates, float, int], Array] | None = None
    """Suppression of its own: candidates, IoU, how many at most → indices by falling score."""
    told: Callable[[bool], Head] | None = None
    """Where the values can be raw or decoded: the same head, once something else than the values tells which."""


def yolox(outputs: Outputs, geometry: Geometry, _names: int) -> Head | None:
    """See the module's docstring; source: the YOLOX project's ``demo_postprocess``."""
    only = _single(outputs, 3)
    if only is None or only.shape[2] < 6:
        return None
    height, width = geometry.input_height, geometry.input_width
    grids = [yolox_grid(height, width, strides) for strides in YOLOX_STRIDES]
    fitting = [grid for grid in grids if len(grid[0]) == only.shape[1]]
    if not fitting:
        return None
    return _yolox_head(only, fitting[0], raw=_raw_grid(only[:, :, :2]))


def _yolox_head(only: Array, grid: tuple[Array, Array], *, raw: bool) -> Head:
    cells, steps = grid

    def decode(row: int, threshold: float) -> Candidates:
        values = only[row].astype(np.float32)
        likely = np.flatnonzero(values[:, 4] >= threshold)
        values, boxes = values[likely], values[likely, :4]
        if raw:
            size = np.exp(np.minimum(boxes[:, 2:], LARGEST_LOG)) * steps[likely]
            boxes = np.concatenate([(boxes[:, :2] + cells[likely]) * steps[likely], size], axis=1)
        return best_class(corners(boxes), values[:, 5:] * values[:, 4:5], threshold)

    return Head(only.shape[2] - 5, decode, suppress=True, told=lambda raw: _yolox_head(only, grid, raw=raw))


def _raw_grid(centres: Array) -> bool:
    """Whether the centres of a batch are offsets from cells (around 0..1), rather than pixels: where no graph tells.

    Decoded centres cover the input, whose last anchor lies at least a stride's half from the origin.
    """
    return bool(np.median(np.abs(centres[:, ::7].astype(np.float32))) < 4.0)


def ultralytics(outputs: Outputs, _geometry: Geometry, names: int) -> Head | None:
    """See the module's docstring; source: the Ultralytics v8 export's output layout."""
    only = _single(outputs, 3)
    if only is None or only.shape[1] < 5 or only.shape[1] >= only.shape[2]:
        return None
    if only.shape[2] == 6 and names != only.shape[1] - 4:
        return None

    def decode(row: int, threshold: float) -> Candidates:
        values = only[row]
        values = values[:, values[4:].max(axis=0) >= threshold].astype(np.float32).T
        return above(corners(values[:, :4]), values[:, 4:], threshold)

    return Head(only.shape[1] - 4, decode, suppress=True)


def detr(outputs: Outputs, geometry: Geometry, names: int) -> Head | None:
    """See the module's docstring; source: the post-processing of DETR and of Deformable DETR."""
    pair = _pair(outputs)
    if pair is None:
        return None
    boxes, logits = pair
    with_none = logits.shape[2] == names + 1
    scale = np.array([geometry.input_width, geometry.input_height] * 2, dtype=np.float32)

    def decode(row: int, threshold: float) -> Candidates:
        values = logits[row].astype(np.float32)
        placed = corners(boxes[row].astype(np.float32)) * scale
        if with_none:
            shifted = np.exp(values - values.max(axis=1, keepdims=True))
            scores = (shifted / shifted.sum(axis=1, keepdims=True))[:, :-1]
            return best_class(placed, scores, threshold)
        return above(placed, sigmoid(values), threshold)

    return Head(names if with_none else logits.shape[2], decode, suppress=False)


def nms(outputs: Outputs, _geometry: Geometry, _names: int) -> Head | None:
    """See the module's docstring."""
    outputs = _batched(outputs)
    only = _single(outputs, 3)
    if only is not None and only.shape[2] == 6:

        def rows_of_six(row: int, threshold: float) -> Candidates:
            values = only[row].astype(np.float32)
            return filtered(values[:, :4], values[:, 4], values[:, 5], threshold)

        return Head(None, rows_of_six, suppress=False)
    parts = nms_parts(outputs)
    if parts is None:
        return None
    boxes, scores, labels, count = parts

    def three_arrays(row: int, threshold: float) -> Candidates:
        end = len(scores[row]) if count is None else int(count.reshape(-1)[row])
        return filtered(boxes[row][:end], scores[row][:end], labels[row][:end], threshold)

    return Head(None, three_arrays, suppress=False)


def nms_image(outputs: Outputs, geometry: Geometry, names: int) -> Head | None:
    """See the module's docstring."""
    head = nms(outputs, geometry, names)
    return replace(head, in_image=True) if head is not None else None


def _batched(outputs: Outputs) -> Outputs:
    """Torchvision's detectors give one image's boxes [n, 4], scores [n], labels [n]: add the batch axis."""
    boxes = [value for value in outputs.values() if value.ndim == 2 and value.shape[1] == 4]
    alone = len(boxes) == 1 and all(value.shape[:1] == boxes[0].shape[:1] for value in outputs.values())
    return {name: value[None] for name, value in outputs.items()} if alone else outputs


def filtered(boxes: Array, scores: Array, labels: Array, threshold: float, extra: Array | None = None) -> Candidates:
    """The rows whose score reaches the threshold; a label below 0 marks a row that holds nothing."""
    kept = (scores >= threshold) & (labels >= 0)
    more = None if extra is None else extra[kept]
    label = np.rint(labels[kept]).astype(np.int64)
    return Candidates(boxes[kept].astype(np.float32), scores[kept].astype(np.float32), label, more)


def nms_parts(outputs: Outputs) -> tuple[Array, Array, Array, Array | None] | None:
    """Boxes, scores, labels and perhaps a count. Integers are labels; of two floats the fractional one is scores."""
    boxes = [value for value in outputs.values() if value.ndim == 3 and value.shape[2] == 4]
    if len(boxes) != 1:
        return None
    rows = boxes[0].shape[:2]
    flat = [(name, value) for name, value in outputs.items() if value.shape == rows]
    counts = [value for value in outputs.values() if value.size == rows[0] and value.shape != rows]
    if len(flat) != 2:
        return None
    integer = [item for item in flat if np.issubdtype(item[1].dtype, np.integer)]
    named = [item for item in flat if any(word in item[0].lower() for word in ("label", "class", "cls"))]
    labels = integer or named
    if len(labels) != 1:
        return None
    scores = next(value for name, value in flat if name != labels[0][0])
    return boxes[0], scores, labels[0][1], counts[0] if counts else None


def _single(outputs: Outputs, rank: int) -> Array | None:
    values = [value for value in outputs.values() if value.ndim == rank]
    return values[0] if len(values) == 1 else None


def _pair(outputs: Outputs) -> tuple[Array, Array] | None:
    """Boxes [batch, queries, 4] and logits [batch, queries, classes] out of the outputs.

    Encoder outputs and masks beside them have other numbers of queries or axes. Where the head itself has four
    classes, names decide.
    """
    values = {name: value for name, value in outputs.items() if value.ndim == 3}
    boxes = {name: value for name, value in values.items() if value.shape[2] == 4}
    if len(boxes) > 1:
        boxes = {name: value for name, value in boxes.items() if "box" in name.lower()}
    if len(boxes) != 1:
        return None
    chosen, box = next(iter(boxes.items()))
    logits = {name: value for name, value in values.items() if name != chosen and value.shape[:2] == box.shape[:2]}
    if len(logits) > 1:
        logits = {name: value for name, value in logits.items() if "logit" in name.lower() or "class" in name.lower()}
    return (box, next(iter(logits.values()))) if len(logits) == 1 else None


DECODERS: dict[str, Callable[[Outputs, Geometry, int], Head | None]] = {
    "yolox": yolox,
    "ultralytics": ultralytics,
    "detr": detr,
    "nms": nms,
    "nms-image": nms_image,
}
ASKED_FOR = frozenset({"nms-image"})
"""Decoders that take what another one takes: they are used where the config names them."""
"""By name: outputs, geometry of an image, number of class names → the head, or None where the outputs do not fit."""
