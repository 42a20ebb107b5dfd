"""The stage that finds the images whose answer changed most between the reference and a candidate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeship import engines
from edgeship.config import Evaluation, Preprocess
from edgeship.data import datasets
from edgeship.data.beside import beside
from edgeship.data.feeds import batch_of
from edgeship.data.loader import Batch, Item, Loader, LoadOptions
from edgeship.data.memory import Memories, ordered
from edgeship.data.preprocess import image_input, in_dtype, input_size, open_picture
from edgeship.data.raw import to_rgb
from edgeship.decide import loaded_trial
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.several import part_of, tasks_of
from edgeship.decode.decoders import decode_predictions
from edgeship.decode.predictions import Depth, Detection, Instances, Poses, Prediction, Rotated, Segmentation, Text
from edgeship.errors import EdgeshipError
from edgeship.files import storage_errors
from edgeship.metrics import detection as boxes_alone
from edgeship.metrics import instances, keypoints, rotated
from edgeship.metrics.objects import Compare, of_objects
from edgeship.metrics.paired import change
from edgeship.metrics.segmentation import count_pixels
from edgeship.metrics.text import distance
from edgeship.pipeline.decide import decision_of
from edgeship.pipeline.depth_pictures import changed_depth, harm_of
from edgeship.pipeline.neighbour_pictures import changed_neighbours
from edgeship.pipeline.stages import Run, Stage, execute_one
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Answer, Artifact, Box, ChangedImage, Changes, Decision, Harm, trial_folder
from edgeship.trial.run import built_batch, open_options

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 36
"""Images kept of those that changed."""
DEPTHS = 12
"""Images kept of those whose depth changed: each has five maps."""
MISTAKES = 12
"""Images kept of those that the reference and the candidate get wrong alike."""
ORDER: dict[Harm, int] = {"worse": 0, "other": 1, "better": 2, "both wrong": 3}
"""Harm first."""
COMPARED: dict[type, Compare] = {
    Detection: boxes_alone.compare,
    Instances: instances.compare,
    Poses: keypoints.compare,
    Rotated: rotated.compare,
}
"""How a prediction is compared with the labels."""
SURE = 0.5
"""Confidence from which a keypoint is drawn."""
LARGEST = 560
"""Longest side of a kept picture, in pixels."""
LOSSLESS = 96
"""Pictures up to this size are kept without loss: the report enlarges them by whole pixels."""


def keep_changes(run: Run, trials: TargetTrials) -> None:
    """Keep the images of a target that changed their answer, where there is something to compare."""
    stage = changes_stage(run.result(REFERENCE), trials, decision_of(run, trials))
    if stage is not None:
        execute_one(run, stage)


def changes_stage(reference: TargetTrials, trials: TargetTrials, decision: Decision) -> Stage[Changes] | None:
    """The stage that keeps images of a target: those that changed, harm first, and mistakes that both make.

    They are those of the chosen candidate, or of the last one tried that was evaluated. None when the candidate is the
    reference itself or nothing was evaluated.
    """
    candidate = _candidate_folder(trials, decision)
    if candidate is None:
        return None

    def key(run: Run) -> Any:
        return {"trials": [reference.folders()[0].name, candidate.name]}

    def work(run: Run, folder: Path) -> Changes:
        base, other = loaded_trial.load(reference.folders()[0]), loaded_trial.load(candidate)
        if not base.records or not other.records:
            return Changes(images=())
        found = changed_images(run, base, other, Pictures(folder, run.config.preprocess))
        order = {name: place for place, name in enumerate(tasks_of(base))}
        return Changes(images=tuple(sorted(found, key=lambda item: (order[item.task], ORDER[item.harm], -item.change))))

    return Stage(f"changes:{trials.name}", Changes, key, work)


class Pictures:
    """Small copies of images and masks in a stage's folder."""

    def __init__(self, folder: Path, preprocess: Preprocess | None = None) -> None:
        """``preprocess`` declares the layout of raw dumps."""
        self._folder = folder
        self._preprocess = preprocess
        self._count = 0

    def image(self, source: Path | NDArray[Any]) -> tuple[Artifact | None, tuple[int, int]]:
        """Keep an RGB copy of an image; None where it cannot be decoded any more.

        Args:
            source: A file, or decoded pixels: H×W, H×W×1 or H×W×3 uint8 RGB.

        Returns:
            The copy, and the width and height of the original.
        """
        from PIL import Image

        try:
            image = self._opened(source).convert("RGB")
        except (OSError, TypeError, ValueError, EdgeshipError):
            return None, (0, 0)
        original = image.size
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return self._save(image, "PNG" if max(image.size) <= LOSSLESS else "JPEG"), original

    def _opened(self, source: Path | NDArray[Any]) -> Image.Image:
        from PIL import Image

        if isinstance(source, Path):
            return open_picture(source, self._preprocess)
        if self._preprocess is not None and self._preprocess.raw is not None and source.ndim <= 2:
            return Image.fromarray(to_rgb(source, self._preprocess.raw))
        return Image.fromarray(source.squeeze(2) if source.shape[2:] == (1,) else source)

    def mask(self, classes: NDArray[Any]) -> Artifact:
        """Keep a mask of class numbers, or of steps of a scale, as large as the image's copy: H×W integers of the
        original image's size."""
        from PIL import Image

        known = np.where(classes > 0, classes % 256, 0).astype(np.uint8)
        image = Image.fromarray(known)
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.NEAREST)
        return self._save(image, "PNG")

    def _save(self, image: Any, kind: str) -> Artifact:
        path = self._folder / f"{self._count}.{kind.lower()}"
        self._count += 1
        with storage_errors(path):
            image.save(path, kind, optimize=True, **({"quality": 80} if kind == "JPEG" else {}))
        return Artifact.of(path, self._folder)


def _candidate_folder(trials: TargetTrials, decision: Decision) -> Path | None:
    """The chosen candidate's trial unless that is plain fp32; else the last evaluated quantized one's."""
    evaluated = [
        (candidate.name, folder)
        for candidate, trial, folder in trials.trials
        if trial.evaluation is not None and candidate.precision != "fp32"
    ]
    chosen = [folder for name, folder in evaluated if name == decision.chosen]
    if chosen:
        return chosen[0]
    return evaluated[-1][1] if evaluated else None


@dataclass(frozen=True)
class _Shown:
    """What one task shows: its settings, its part of both trials, and how far each image's answer moved."""

    name: str
    """Empty where it is the only task."""
    settings: Evaluation
    base: Measured
    other: Measured
    count: int
    """Images that changed, at most."""
    mistakes: int
    """Images that both get wrong, at most."""

    @functools.cached_property
    def moved(self) -> NDArray[Any]:
        """How much each image's answer changed."""
        return change(self.base.records, self.other.records)

    @functools.cached_property
    def wanted(self) -> dict[str, tuple[float, bool]]:
        """The images to show, those that changed most first: how much, and whether it is a mistake of both."""
        moved, ids = self.moved, self.base.records["ids"]
        rows = [int(row) for row in np.argsort(-moved, kind="stable")[: self.count] if moved[row] > 0]
        both = [row for row in missed_by_both(self.base.records, self.other.records) if row not in rows]
        found = {str(ids[row]): (float(moved[row]), False) for row in rows}
        return found | {str(ids[row]): (float(moved[row]), True) for row in both[: self.mistakes]}

    @property
    def drawn(self) -> bool:
        """Whether its answers can be drawn: nobody but its author knows how to draw those of a task of one's own."""
        return str(self.base.records["task"]) in ("segmentation", "text", "depth") or of_objects(self.base.records)

    def answers(self, outputs: dict[str, NDArray[Any]], batch: Batch) -> dict[tuple[str, str], tuple[Prediction, Any]]:
        """Prediction and label of those images of a batch that it shows, by its name and the image's id."""
        settings, classes = self.settings, tuple(str(name) for name in self.base.records["classes"])
        made = decode_predictions(settings.task, settings.decoder, outputs, batch.geometries, settings, classes)
        return {
            (self.name, name): (answer, target[self.name] if self.name else target)
            for name, answer, target in zip(batch.ids, made, batch.targets, strict=True)
            if name in self.wanted
        }


def changed_images(run: Run, base: Measured, other: Measured, pictures: Pictures) -> list[ChangedImage]:
    """The images of every task; several tasks share the number that is shown."""
    names, settings = tasks_of(base), run.config.evaluation
    inferred, found = [], []
    for name in names:
        mine, theirs = part_of(base, name), part_of(other, name)
        most = DEPTHS if str(mine.records["task"]) == "depth" else SHOWN
        task = _Shown(
            name,
            settings.tasks[name] if name else settings,
            mine,
            theirs,
            -(-most // len(names)),
            -(-MISTAKES // len(names)),
        )
        if "top" in mine.records:
            found += _classification(run, task, pictures)
        elif "nearest" in mine.records:
            sides, counts = (mine.records, theirs.records), (task.count, task.mistakes)
            near = changed_neighbours(task.settings, sides, counts, theirs.name, pictures.image)
            found += [item.model_copy(update={"task": name}) for item in near]
        elif task.drawn and task.wanted:
            inferred.append(task)
    return found + compare_predictions(run, inferred, pictures)


def _classification(run: Run, task: _Shown, pictures: Pictures) -> list[ChangedImage]:
    """The first of the images whose best class changed, and those that both get wrong with the most confidence."""
    base, other = task.base.records, task.other.records
    classes = [str(item) for item in base["classes"]]
    before: NDArray[Any] = base["top"][:, 0]
    after: NDArray[Any] = other["top"][:, 0]
    moved = np.flatnonzero(before != after)
    change = np.maximum(base["score"], other["score"])
    harm: dict[int, Harm] = {
        int(row): "worse"
        if before[row] == base["label"][row]
        else "better"
        if after[row] == base["label"][row]
        else "other"
        for row in moved
    }
    shown = sorted(harm, key=lambda row: (ORDER[harm[row]], -change[row]))[: task.count]
    alike = np.flatnonzero((before == after) & (before != base["label"]))
    mistakes = [int(row) for row in alike[np.argsort(-change[alike], kind="stable")][: task.mistakes]]
    harm |= dict.fromkeys(mistakes, "both wrong")
    wanted = {str(base["ids"][row]): row for row in (*shown, *mistakes)}
    found = []
    for item in datasets.open_dataset(run.config.evaluation).items:
        row = wanted.get(item.id)
        if row is None:
            continue
        picture, size = pictures.image(item.picture())
        found.append(
            ChangedImage(
                picture=picture,
                size=size,
                name=item.id,
                task=task.name,
                label=classes[int(base["label"][row])],
                candidate=task.other.name,
                reference=Answer(text=classes[int(before[row])], score=float(base["score"][row])),
                answer=Answer(text=classes[int(after[row])], score=float(other["score"][row])),
                change=float(change[row]),
                harm=harm[row],
            )
        )
    return found


MATCH_IOU = 0.5


def compare_predictions(run: Run, tasks: Sequence[_Shown], pictures: Pictures) -> list[ChangedImage]:
    """The images that changed most by their records, and mistakes of both, inferred again by both engines, once for
    all tasks.

    Empty when an engine of the two cannot run here (it was tried on another host).
    """
    if not all(_runs_here(task.base) and _runs_here(task.other) for task in tasks):
        return []
    wanted = {name for task in tasks for name in task.wanted}
    items = [item for item in datasets.open_dataset(run.config.evaluation).items if item.id in wanted] if tasks else []
    if not items:
        return []
    before = _predict(run, tasks, lambda task: task.base, items)
    after = _predict(run, tasks, lambda task: task.other, items)
    found = []
    for task in tasks:
        for item in items:
            key = (task.name, item.id)
            if key in before and key in after:
                moved, alike = task.wanted[item.id]
                changed = _pair(task, item, (before[key], after[key]), pictures)
                harm = "both wrong" if alike and changed.harm == "other" else changed.harm
                found.append(changed.model_copy(update={"change": moved, "harm": harm}))
    return found


def missed_by_both(base: Any, other: Any) -> list[int]:
    """Rows of the images in which both miss objects at the operating confidence, those that miss most first."""
    if not of_objects(base):
        return []
    missed = ~base["gt_ignored"][:, 0]
    for records in (base, other):
        missed = missed & (records["gt_score"] < float(records["operating_confidence"]))
    count = np.bincount(base["gt_image"][missed], minlength=int(base["count"]))
    return [int(row) for row in np.argsort(-count, kind="stable") if count[row] > 0]


def _runs_here(trial: Measured) -> bool:
    if trial.folder is None or trial.trial.build is None:
        return False
    spec = trial_folder.read_spec(trial.folder)
    return spec.target.host is None and (trial.folder / trial.trial.build.engine.path).is_file()


def _predict(
    run: Run, tasks: Sequence[_Shown], side: Callable[[_Shown], Measured], items: list[Item]
) -> dict[tuple[str, str], tuple[Prediction, Any]]:
    """Prediction and label by task and image id, of the images that each task shows, by the engine of one side."""
    trial = side(tasks[0])
    assert trial.folder is not None
    assert trial.trial.build is not None
    preprocess = run.config.preprocess
    assert preprocess is not None
    spec = trial_folder.read_spec(trial.folder)
    found: dict[tuple[str, str], tuple[Prediction, Any]] = {}
    engine = engines.get(trial.trial.engine)
    with engine.open(trial.folder / trial.trial.build.engine.path, open_options(spec)) as runner:
        info = image_input(runner.inputs, preprocess)
        fixed = info.shape[0]
        rows = fixed if isinstance(fixed, int) else built_batch(spec, trial.trial.build).min
        memories = Memories(runner.inputs, preprocess)
        sequences: dict[str, str] = {}
        if memories:
            items, sequences = _whole_sequences(run, items)
            rows = 1
        options = LoadOptions(rows, None, len(items))
        others = beside(runner.inputs, preprocess, "evaluation")
        loader = Loader(items, in_dtype(preprocess, info), input_size(info, preprocess), options, others)
        batch: Batch
        for batch in loader:
            feeds = batch.feeds(runner.inputs, info.name)
            if memories:
                outputs = memories.step(runner.infer, feeds, sequences[batch.ids[0]])[1]
            else:
                outputs = runner.infer(batch_of(feeds, runner.inputs, rows))
            for task in tasks:
                found |= task.answers(outputs, batch)
    return found


def _whole_sequences(run: Run, items: list[Item]) -> tuple[list[Item], dict[str, str]]:
    """All frames of the sequences that some images stand in, and the sequence of each."""
    settings = run.config.evaluation.model_copy(update={"limit": None})
    every, sequences = ordered(datasets.open_dataset(settings).items, settings)
    wanted = {sequences[item.id] for item in items}
    return [item for item in every if sequences[item.id] in wanted], sequences


def _pair(
    task: _Shown, item: Item, answers: tuple[tuple[Prediction, Any], tuple[Prediction, Any]], kept: Pictures
) -> ChangedImage:
    (before, target), (after, _) = answers
    threshold, nothing = task.settings.operating_confidence, Answer(text="")
    picture, size = kept.image(item.picture())
    shown = ChangedImage(
        picture=picture,
        size=size,
        name=item.id,
        task=task.name,
        label="",
        candidate=task.other.name,
        reference=nothing,
        answer=nothing,
    )
    if isinstance(before, Depth) and isinstance(after, Depth):
        return changed_depth(shown, before, after, target, kept)
    told: dict[str, Any]
    if isinstance(before, Detection) and isinstance(after, Detection):
        first, second = before.above(threshold), after.above(threshold)
        good, later = float(found_objects(first, target)), float(found_objects(second, target))
        truth = tuple(
            Box(corners=(float(a), float(b), float(c), float(d)), label=before.classes[int(label)])
            for (a, b, c, d), label in zip(target.boxes, target.labels, strict=True)
        )
        told = {
            "label": counted(len(truth), "object", "objects"),
            "truth": truth,
            "reference": _found(first, int(good), len(truth), kept),
            "answer": _found(second, int(later), len(truth), kept),
        }
    elif isinstance(before, Text) and isinstance(after, Text):
        good, later = -float(distance(before.text, target)), -float(distance(after.text, target))
        told = {"label": target, "reference": Answer(text=before.text), "answer": Answer(text=after.text)}
    else:
        assert isinstance(before, Segmentation) and isinstance(after, Segmentation)
        ignored = task.settings.ignore_index
        good, later = pixel_accuracy(before, target, ignored), pixel_accuracy(after, target, ignored)
        told = {
            "label": "mask",
            "reference": Answer(text=f"{good:.2%} of pixels right", mask=kept.mask(before.mask)),
            "answer": Answer(text=f"{later:.2%} of pixels right", mask=kept.mask(after.mask)),
        }
    return shown.model_copy(update={**told, "harm": harm_of(good, later)})


def _found(detection: Detection, good: int, objects: int, kept: Pictures) -> Answer:
    boxes = counted(len(detection.boxes), "box", "boxes")
    mask = kept.mask(detection.class_map()) if isinstance(detection, Instances) else None
    return Answer(text=f"{good} of {objects} found, {boxes}", boxes=boxes_of(detection), mask=mask)


def counted(number: int, one: str, many: str) -> str:
    """``1 box``, ``2 boxes``."""
    return f"{number} {one if number == 1 else many}"


def found_objects(detection: Detection, truth: Any) -> int:
    """How many labelled objects a box, mask or pose of their class fits with an IoU or OKS of at least
    0.5."""
    if not len(detection.boxes) or not len(truth.boxes):
        return 0
    overlap = COMPARED[type(detection)](detection, truth).overlap(
        np.arange(len(detection.boxes)), np.arange(len(truth.boxes))
    )
    same = detection.labels[:, None] == truth.labels[None, :]
    return int(((overlap >= MATCH_IOU) & same).any(axis=0).sum())


def boxes_of(detection: Detection) -> tuple[Box, ...]:
    """A detection's boxes for the report."""
    points: Any = detection.points if isinstance(detection, Poses) else [()] * len(detection.boxes)
    outlines: Any = detection.corners if isinstance(detection, Rotated) else [()] * len(detection.boxes)
    return tuple(
        Box(
            corners=(float(a), float(b), float(c), float(d)),
            label=name,
            score=float(score),
            points=tuple((float(x), float(y)) for x, y, sure in own if sure >= SURE),
            outline=tuple((float(x), float(y)) for x, y in line),
        )
        for (a, b, c, d), name, score, own, line in zip(
            detection.boxes, detection.names, detection.scores, points, outlines, strict=True
        )
    )


def pixel_accuracy(answer: Segmentation, truth: Any, ignored: int | None) -> float:
    """The metric of that name on one image; 0 where no pixel is labelled."""
    right, _, labelled = count_pixels(answer.mask, truth, len(answer.classes), ignored).sum(axis=1)
    return float(right / labelled) if labelled else 0.0
