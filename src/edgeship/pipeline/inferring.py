"""Answers of the reference and of a candidate on a few images, inferred again with their boxes and masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeship import engines
from edgeship.data import datasets
from edgeship.data.frames import in_dtype
from edgeship.data.loader import Batch, Item, Loader, LoadOptions
from edgeship.data.preprocess import image_input, input_size
from edgeship.decide.measured import Measured
from edgeship.decide.report import Answer, Box, ChangedImage
from edgeship.metrics.decoders import decode_predictions
from edgeship.metrics.paired import change
from edgeship.metrics.predictions import Detection, Prediction, Segmentation
from edgeship.metrics.segmentation import count_pixels
from edgeship.pipeline.cache import Run
from edgeship.results import TrialSpec, read
from edgeship.trial.run import built_batch, open_options

MATCH_IOU = 0.5


def compare_predictions(run: Run, base: Measured, other: Measured, count: int) -> list[ChangedImage]:
    """The ``count`` images that changed most by their records, inferred again by both engines.

    Empty when an engine of the two cannot run here (it was tried on another host), and for a task of one's own: nobody
    but its author knows how to draw its answers.
    """
    if str(base.records["task"]) not in ("detection", "segmentation"):
        return []
    moved = change(base.records, other.records)
    rows = [int(row) for row in np.argsort(-moved, kind="stable")[:count] if moved[row] > 0]
    wanted = [str(base.records["ids"][row]) for row in rows]
    if not wanted or not _runs_here(base) or not _runs_here(other):
        return []
    items = [item for item in datasets.open_dataset(run.config.evaluation).items if item.id in wanted]
    if not items:
        return []
    before, after = _predict(run, base, items), _predict(run, other, items)
    by_name = dict(zip(wanted, (float(moved[row]) for row in rows), strict=True))
    found = []
    for item in items:
        if item.id in before and item.id in after:
            found.append(_pair(run, other.name, item, (before[item.id], after[item.id]), by_name[item.id]))
    return found


def _runs_here(trial: Measured) -> bool:
    if trial.folder is None or trial.trial.build is None:
        return False
    spec = read(TrialSpec, trial.folder / "spec.json")
    return spec.target.host is None and (trial.folder / trial.trial.build.engine.path).is_file()


def _predict(run: Run, trial: Measured, items: list[Item]) -> dict[str, tuple[Prediction, Any]]:
    """Prediction and label by image id."""
    assert trial.folder is not None
    assert trial.trial.build is not None
    settings, preprocess = run.config.evaluation, run.config.preprocess
    assert preprocess is not None
    spec = read(TrialSpec, trial.folder / "spec.json")
    classes = tuple(str(name) for name in trial.records["classes"])
    found: dict[str, tuple[Prediction, Any]] = {}
    engine = engines.get(trial.trial.engine)
    with engine.open(trial.folder / trial.trial.build.engine.path, open_options(spec)) as runner:
        info = image_input(runner.inputs, preprocess)
        fixed = info.shape[0]
        rows = fixed if isinstance(fixed, int) else built_batch(spec, trial.trial.build).min
        loader = Loader(
            items, in_dtype(preprocess, info), input_size(info, preprocess), LoadOptions(rows, None, len(items))
        )
        batch: Batch
        for batch in loader:
            missing = rows - len(batch.array)
            array = np.concatenate([batch.array, np.repeat(batch.array[-1:], missing, axis=0)])
            outputs = runner.infer({info.name: array})
            answers = decode_predictions(settings.task, settings.decoder, outputs, batch.geometries, settings, classes)
            for name, answer, target in zip(batch.ids, answers, batch.targets, strict=True):
                found[name] = (answer, target)
    return found


def _pair(
    run: Run, candidate: str, item: Item, answers: tuple[tuple[Prediction, Any], tuple[Prediction, Any]], moved: float
) -> ChangedImage:
    (before, target), (after, _) = answers
    threshold = run.config.evaluation.operating_confidence
    picture = item.picture()
    if isinstance(before, Detection) and isinstance(after, Detection):
        first, second = before.above(threshold), after.above(threshold)
        good, later = found_objects(first, target), found_objects(second, target)
        truth = tuple(
            Box((float(a), float(b), float(c), float(d)), before.classes[int(label)])
            for (a, b, c, d), label in zip(target.boxes, target.labels, strict=True)
        )
        return ChangedImage(
            image=picture,
            name=item.id,
            label=counted(len(truth), "object", "objects"),
            candidate_name=candidate,
            reference=_found(first, good, len(truth)),
            candidate=_found(second, later, len(truth)),
            truth=truth,
            change=moved,
            harm="worse" if later < good else "better" if later > good else "other",
        )
    assert isinstance(before, Segmentation)
    assert isinstance(after, Segmentation)
    ignored = run.config.evaluation.ignore_index
    right, right_later = pixel_accuracy(before, target, ignored), pixel_accuracy(after, target, ignored)
    return ChangedImage(
        image=picture,
        name=item.id,
        label="labelled mask",
        candidate_name=candidate,
        reference=Answer(f"{right:.1%} of pixels right", mask=before.mask),
        candidate=Answer(f"{right_later:.1%} of pixels right", mask=after.mask),
        change=moved,
        harm="worse" if right_later < right else "better" if right_later > right else "other",
    )


def _found(detection: Detection, good: int, objects: int) -> Answer:
    boxes = counted(len(detection.boxes), "box", "boxes")
    return Answer(f"{good} of {objects} found, {boxes}", boxes=boxes_of(detection))


def counted(number: int, one: str, many: str) -> str:
    """``1 box``, ``2 boxes``."""
    return f"{number} {one if number == 1 else many}"


def found_objects(detection: Detection, truth: Any) -> int:
    """How many labelled objects a box of their class covers with an IoU of at least 0.5."""
    from edgeship.metrics.matching import iou_matrix

    if not len(detection.boxes) or not len(truth.boxes):
        return 0
    overlap = iou_matrix(detection.boxes.astype(np.float64), truth.boxes, np.zeros(len(truth.boxes), bool))
    same = detection.labels[:, None] == truth.labels[None, :]
    return int(((overlap >= MATCH_IOU) & same).any(axis=0).sum())


def boxes_of(detection: Detection) -> tuple[Box, ...]:
    """A detection's boxes for the report."""
    return tuple(
        Box((float(a), float(b), float(c), float(d)), name, float(score))
        for (a, b, c, d), name, score in zip(detection.boxes, detection.names, detection.scores, strict=True)
    )


def pixel_accuracy(answer: Segmentation, truth: Any, ignored: int | None) -> float:
    """The metric of that name on one image; 0 where no pixel is labelled."""
    right, _, labelled = count_pixels(answer.mask, truth, len(answer.classes), ignored).sum(axis=1)
    return float(right / labelled) if labelled else 0.0
