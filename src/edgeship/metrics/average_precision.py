"""AP and AR from detection records: for one weighting exactly as pycocotools, for many at once fast.

The weighted precision curve equals the curve of a data set in which each image stands as often as its weight says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeship.errors import DataError
from edgeship.metrics.matching import AREAS, IOU_THRESHOLDS, RIGHT, WRONG

if TYPE_CHECKING:
    from edgeship.metrics import Array, RecordsLike

SIZES = ("small", "medium", "large")
METRICS = (
    "map",
    "map50",
    "map75",
    *(f"map_{size}" for size in SIZES),
    "ar",
    "ar1",
    "ar10",
    *(f"ar_{size}" for size in SIZES),
    "recall",
    *(f"recall_{size}" for size in SIZES),
    "precision",
)
CLASS_METRICS = ("ap", "ap50", *(f"ap_{size}" for size in SIZES), "ar", "recall", "precision")

MAP_DOTA, AP_DOTA = "map_dota", "ap_dota"
"""By DOTA's development kit, of rotated boxes."""


class Levels:
    """Recall levels 0 … 1 at which precision is read.

    ``values`` float64 [n]; ``late`` bool [n + 1]: those that floating point puts just above their share of the whole,
    so that an equal recall does not reach them.
    """

    def __init__(self, values: Array) -> None:
        self.values = values
        self.late = np.append(np.arange(len(values)) / (len(values) - 1) < values, False)


COCO_LEVELS, VOC_LEVELS = Levels(np.linspace(0.0, 1.0, 101)), Levels(np.arange(0.0, 1.1, 0.1))
RECALL_LEVELS = COCO_LEVELS.values
STEPS = len(IOU_THRESHOLDS)
CHUNK = 250
"""Resamples computed together: their rows stay in the processor's cache."""


@dataclass(frozen=True)
class _Curve:
    """The detections of one class in one area range, by falling score."""

    image: Array
    rank: Array
    right: Array
    """bool [T, D]: true positives."""
    wrong: Array
    """bool [T, D]: false positives."""
    objects: Array
    """Images of the counted objects, one entry for each."""


def _curves_of(records: RecordsLike, areas: Sequence[str], classes: Sequence[int]) -> Iterator[tuple[int, str, _Curve]]:
    order = np.lexsort((np.arange(len(records["det_score"])), -records["det_score"], records["det_label"]))
    label = records["det_label"][order]
    gt_order = np.argsort(records["gt_label"], kind="stable")
    gt_label = records["gt_label"][gt_order]
    bits = np.arange(STEPS, dtype=np.uint16)[:, None]
    for k in classes:
        mine = order[np.searchsorted(label, k) : np.searchsorted(label, k, "right")]
        theirs = gt_order[np.searchsorted(gt_label, k) : np.searchsorted(gt_label, k, "right")]
        for area in areas:
            column = list(AREAS).index(area)
            matched = (records["det_matched"][mine, column] >> bits & 1).astype(np.bool_)
            alive = (records["det_ignored"][mine, column] >> bits & 1) == 0
            counted = theirs[~records["gt_ignored"][theirs, column]]
            yield (
                k,
                area,
                _Curve(
                    records["det_image"][mine],
                    records["det_rank"][mine],
                    matched & alive,
                    ~matched & alive,
                    records["gt_image"][counted],
                ),
            )


def curves(records: RecordsLike, weight: Array) -> dict[str, Array]:
    """AP and AR per class under one weighting; NaN for classes without counted objects.

    Returns:
        ``ap``, ``ap50``, ``ap75``, ``ap_small`` …, ``ar``, ``ar1``, ``ar10``, ``ar_small`` …: float64 [classes].
    """
    count = len(records["classes"])
    names = ["ap", "ap50", "ap75", "ar", "ar1", "ar10"] + [
        f"{kind}_{area}" for kind in ("ap", "ar") for area in AREAS if area != "all"
    ]
    found = {name: np.full(count, np.nan) for name in names}
    for k, area, curve in _curves_of(records, list(AREAS), range(count)):
        total = weight[curve.objects].sum()
        if total <= 0:
            continue
        by_detection = weight[curve.image]
        precision = _precision(curve, by_detection, total)
        limits = {1: "ar1", 10: "ar10", 100: "ar"} if area == "all" else {100: f"ar_{area}"}
        found_some = np.flatnonzero(curve.right.any(axis=0))
        right, by_found, rank = curve.right[:, found_some], by_detection[found_some], curve.rank[found_some]
        for limit, name in limits.items():
            recalled = (right * (by_found * (rank < limit))).sum(axis=1) / total
            found[name][k] = recalled.mean()
        if area == "all":
            found["ap"][k], found["ap50"][k], found["ap75"][k] = precision.mean(), precision[0], precision[5]
        else:
            found[f"ap_{area}"][k] = precision.mean()
    if of_devkit(records):
        found[AP_DOTA] = np.full(count, np.nan)
        for k, curve in _devkit_curves(records, range(count)):
            total = weight[curve.objects].sum()
            if total > 0:
                found[AP_DOTA][k] = _interpolated(curve, weight[curve.image], total, 1, VOC_LEVELS).mean()
    return found


def of_devkit(records: RecordsLike) -> bool:
    """Whether the detections are judged as DOTA's development kit does, too."""
    return "det_devkit" in records


def metrics_of(records: RecordsLike) -> tuple[str, ...]:
    """The metrics that these records give."""
    return (*METRICS, MAP_DOTA) if of_devkit(records) else METRICS


def class_metrics_of(records: RecordsLike) -> tuple[str, ...]:
    """The metrics of a class that these records give."""
    return (*CLASS_METRICS, AP_DOTA) if of_devkit(records) else CLASS_METRICS


def _devkit_curves(records: RecordsLike, classes: Sequence[int]) -> Iterator[tuple[int, _Curve]]:
    order = np.argsort(-records["det_score"], kind="stable")
    counted = ~records["gt_ignored"][:, 0]
    for k in classes:
        mine = order[records["det_label"][order] == k]
        answer = records["det_devkit"][mine]
        objects = records["gt_image"][counted & (records["gt_label"] == k)]
        image, rank = records["det_image"][mine], records["det_rank"][mine]
        yield k, _Curve(image, rank, (answer == RIGHT)[None], (answer == WRONG)[None], objects)


def _precision(curve: _Curve, by_detection: Array, total: float) -> Array:
    """AP at each IoU threshold: the mean over 101 recall levels of the interpolated precision."""
    result: Array = _interpolated(curve, by_detection, total, STEPS, COCO_LEVELS).sum(axis=1) / len(RECALL_LEVELS)
    return result


def _interpolated(curve: _Curve, by_detection: Array, total: float, steps: int, levels: Levels) -> Array:
    """The highest precision at each recall level or beyond it, at the first IoU thresholds: float64 [steps, levels].

    Precision rises where a true positive stands, so the curve is read there alone, for all thresholds at once.
    """
    edges = np.flatnonzero(curve.right[:steps].any(axis=0))
    right = np.cumsum(np.where(curve.right[:steps, edges], by_detection[edges], 0.0), axis=1)
    wrong = np.cumsum(np.where(curve.wrong[:steps], by_detection, 0.0), axis=1)[:, edges]
    envelope = np.zeros((steps, len(edges) + 1))
    np.divide(right, right + wrong + np.spacing(1), out=envelope[:, :-1])
    np.maximum.accumulate(envelope[:, ::-1], axis=1, out=envelope[:, ::-1])
    place = np.stack([np.searchsorted(row, levels.values, side="left") for row in right / total])
    found: Array = np.take_along_axis(envelope, place, axis=1)
    return found


def precision_recall(records: RecordsLike) -> Array:
    """Precision at each of :data:`RECALL_LEVELS` at IoU 0.5, the mean over classes with objects: float64 [101].

    Interpolated as COCO does, so that its mean is mAP50. NaN where no class has an object.
    """
    found = []
    for _, _, curve in _curves_of(records, ["all"], range(len(records["classes"]))):
        if len(curve.objects):
            once = np.ones(len(curve.image))
            found.append(_interpolated(curve, once, float(len(curve.objects)), 1, COCO_LEVELS)[0])
    return np.mean(found, axis=0) if found else np.full(len(RECALL_LEVELS), np.nan)


AVERAGED = {"map": "ap", "map50": "ap50", "map75": "ap75", MAP_DOTA: AP_DOTA}
AVERAGED |= {f"map_{size}": f"ap_{size}" for size in SIZES}
"""Metric → the metric of a class whose mean it is."""


def resample(records: RecordsLike, weights: Array, names: Sequence[str]) -> dict[str, Array]:
    """Metrics under many weightings at once: float64 [B] for each name (see :meth:`edgeship.metrics.Task.resample`)."""
    columns = np.ascontiguousarray(np.asarray(weights, dtype=np.float32).T)
    if columns.shape[0] != int(records["count"]):
        raise DataError(f"{columns.shape[0]} weights for {int(records['count'])} images", expected="one for each image")
    classes = [str(name) for name in records["classes"]]
    known: dict[tuple[str, int], Array] = {}
    found: dict[str, Array] = {}
    for name in names:
        metric, class_name = check_name(name, records)
        if class_name is not None and class_name not in classes:
            raise DataError(f"no class {class_name!r} in these records", expected=", ".join(classes[:10]))
        if class_name is None and metric.partition("_")[0] in ("recall", "precision"):
            found[name] = _operating(records, columns, metric, None)
            continue
        everyone = range(len(classes)) if class_name is None else [classes.index(class_name)]
        part = AVERAGED.get(metric, metric)
        missing = [k for k in everyone if (part, k) not in known]
        known |= {(part, k): row for k, row in _resample_part(records, columns, part, missing)}
        found[name] = _mean_known([known[part, k] for k in everyone])
    return found


def _mean_known(rows: list[Array]) -> Array:
    stack = np.stack(rows)
    present = np.isfinite(stack)
    count = present.sum(axis=0)
    total = np.where(present, stack, 0.0).sum(axis=0)
    mean: Array = np.divide(total, count, out=np.full(stack.shape[1], np.nan), where=count > 0)
    return mean


def _resample_part(
    records: RecordsLike, columns: Array, part: str, classes: Sequence[int]
) -> Iterator[tuple[int, Array]]:
    kind, _, size = part.partition("_")
    area = size or "all"
    if kind in ("recall", "precision"):
        for k in classes:
            yield k, _operating(records, columns, part, k)
        return
    if part == AP_DOTA:
        for k, curve in _devkit_curves(records, classes):
            total = _sums(columns, curve.objects)
            yield k, np.where(total > 0, _many_ap(curve, columns, total, [0], VOC_LEVELS), np.nan)
        return
    steps = {"ap50": [0], "ap75": [5]}.get(kind, list(range(STEPS)))
    for k, _, curve in _curves_of(records, [area], classes):
        total = _sums(columns, curve.objects)
        if kind.startswith("ap"):
            value = _many_ap(curve, columns, total, steps, COCO_LEVELS)
        else:
            value = _many_recall(curve, columns, total, int(kind[2:] or 100))
        yield k, np.where(total > 0, value, np.nan)


def _sums(columns: Array, images: Array) -> Array:
    """Weight of a list of images, with repetition, in each resample: float64 [B]."""
    counts = np.bincount(images, minlength=columns.shape[0]).astype(np.float64)
    used = np.flatnonzero(counts)
    result: Array = counts[used] @ columns[used].astype(np.float64)
    return result


def _operating(records: RecordsLike, columns: Array, metric: str, k: int | None) -> Array:
    """Recall or precision at the operating confidence in each resample, of one class or of all together."""
    kind, _, size = metric.partition("_")
    confidence = float(records["operating_confidence"])
    if kind == "recall":
        counted = ~records["gt_ignored"][:, list(AREAS).index(size or "all")]
        label = records["gt_label"]
        hit = records["gt_score"] >= confidence
        image = records["gt_image"]
    else:
        alive = (records["det_ignored"][:, 0] & 1) == 0
        counted = (records["det_score"] >= confidence) & alive
        label = records["det_label"]
        hit = (records["det_matched"][:, 0] & 1) == 1
        image = records["det_image"]
    if k is not None:
        counted = counted & (label == k)
    total, right = _sums(columns, image[counted]), _sums(columns, image[counted & hit])
    share: Array = np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)
    return share


def _many_recall(curve: _Curve, columns: Array, total: Array, limit: int) -> Array:
    right = sum(_sums(columns, curve.image[row & (curve.rank < limit)]) for row in curve.right)
    share: Array = np.divide(right, total * STEPS, out=np.zeros(len(total)), where=total > 0)
    return share


def _many_ap(curve: _Curve, columns: Array, total: Array, steps: Sequence[int], levels: Levels) -> Array:
    """Mean AP over IoU thresholds in each resample, B resamples at a time in chunks."""
    result = np.zeros(columns.shape[1])
    right = curve.right[list(steps)]
    last = int(np.flatnonzero(right.any(axis=0))[-1]) + 1 if right.any() else 0
    if last == 0:
        return result
    right = right[:, :last]
    alive = right | curve.wrong[list(steps), :last]
    image = curve.image[:last]
    for start in range(0, columns.shape[1], CHUNK):
        chosen = slice(start, start + CHUNK)
        part = np.ascontiguousarray(columns[:, chosen])
        result[chosen] = _chunk(_Alive(image, right, alive), part, total[chosen], levels)
    return result / len(steps)


class _Alive(NamedTuple):
    """Detections by falling score: ``image`` [D], and at each IoU threshold, bool [T, D], which of them are right, and
    which count."""

    image: Array
    right: Array
    alive: Array


def _chunk(detections: _Alive, columns: Array, total: Array, levels: Levels) -> Array:
    """Sum over IoU thresholds of AP for one chunk of resamples: float64 [b].

    Precision changes the interpolated curve only where a true positive stands, so only those rows are computed. The
    detections alive at every threshold are summed once; what differs at a threshold is added there.
    """
    image, right, alive = detections
    common = np.flatnonzero(alive.all(axis=0))
    edges = np.flatnonzero(right.any(axis=0))
    base = _running(columns, image, common, edges)
    scale = np.divide(len(levels.values) - 1.0, total, out=np.zeros(len(total)), where=total > 0).astype(np.float32)
    result = np.zeros(columns.shape[1])
    everywhere = np.zeros(len(image), dtype=np.bool_)
    everywhere[common] = True
    for right_row, alive_row in zip(right, alive, strict=True):
        places = np.flatnonzero(right_row)
        if len(places) == 0:
            continue
        seen = base[np.searchsorted(edges, places)]
        extra = np.flatnonzero(alive_row & ~everywhere)
        if len(extra):
            seen = seen + _running(columns, image, extra, places)
        found = np.cumsum(columns[image[places]], axis=0)
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        found *= scale
        passed = np.floor(found + np.float32(1.0001))
        reached = passed.astype(np.intp) - 1
        passed -= levels.late[reached] & (found - reached < 1e-4)
        passed[1:] -= passed[:-1].copy()
        result += np.einsum("jb,jb->b", envelope, passed) / len(levels.values)
    return result


def _running(columns: Array, image: Array, members: Array, places: Array) -> Array:
    """Weight of ``members`` up to and including each of ``places``: float32 [places, b]."""
    until = np.searchsorted(members, places, side="right")
    starts = np.concatenate([[0], until[:-1]])
    rows = columns[image[members[: until[-1]]]]
    sums = np.zeros((len(places), columns.shape[1]), dtype=np.float32)
    filled = np.flatnonzero(until > starts)
    if len(filled):
        sums[filled] = np.add.reduceat(rows, starts[filled], axis=0)
    return np.cumsum(sums, axis=0, out=sums)


def check_name(name: str, records: RecordsLike) -> tuple[str, str | None]:
    """Split ``metric`` or ``metric/class``.

    Raises:
        DataError: No such metric.
    """
    metric, _, class_name = name.partition("/")
    known = class_metrics_of(records) if class_name else metrics_of(records)
    if metric not in known:
        raise DataError(f"{records['task']} has no metric {name!r}", expected=", ".join(known))
    return metric, class_name or None
