"""The reference on a few labelled images, before anything long begins: what it answers, and what looks wrong."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edgeship import engines
from edgeship.config import Config, Preprocess
from edgeship.data.beside import beside, single
from edgeship.data.dataset import Dataset
from edgeship.data.datasets import open_dataset
from edgeship.data.feeds import batch_of
from edgeship.data.frames import image_files
from edgeship.data.loader import Loaded, feeds_of, load
from edgeship.data.memory import Memories
from edgeship.data.objects import Boxes
from edgeship.data.preprocess import CorruptImage, image_input, in_dtype, input_size
from edgeship.data.reference import is_reference
from edgeship.data.rows import take
from edgeship.decode.decoders import decode_all
from edgeship.decode.fitting import fitted
from edgeship.decode.predictions import (
    Classification,
    Depth,
    Detection,
    Embedding,
    Prediction,
    Segmentation,
    Several,
    Text,
)
from edgeship.engines import OpenOptions, Runner
from edgeship.errors import DataError
from edgeship.files import sha256_file, storage_errors
from edgeship.pipeline.frames import evaluation_code, evaluation_hash, frame_source
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.results import Artifact, Looked
from edgeship.trial.evaluate import evaluate

JUDGED = 100
"""Images that the reference is measured on."""
SHOWN = 4
"""Images whose answers are shown; the first one is drawn."""
FEW = 20
"""A class with fewer labelled examples is named."""
CHANCE_SIGMAS = 3.0
"""A reference within so many standard errors of always saying the most common class is called doubtful."""
LARGE_INPUT = 50.0
"""Values of a normalised input beyond this were normalised for another range of pixels."""
ROW_TOLERANCE = 1e-3
"""Largest difference, relative to the outputs' range, of an image's answer alone and among others."""
LEAST_SIDE = 256
"""Pixels to which a small frame is drawn up."""


def look_key(run: Run) -> Any:
    """The graph, the labelled images, the preprocessing, and how outputs are read."""
    config = run.config
    return {
        "model": run.result(SLIM).model.sha256,
        "evaluation": [evaluation_hash(run), config.evaluation.model_dump(mode="json")],
        "code": evaluation_code(run),
        "calibration": [str(frame_source(config)), config.calibration.count],
        "preprocess": dump(config.preprocess),
        "gate": sorted(config.gate.critical),
        "versions": versions("onnxruntime"),
    }


def look_work(run: Run, folder: Path) -> Looked:
    """Run the reference on a hundred labelled images and a few more closely. Raises as the evaluation does."""
    config = run.config
    frames = _calibration_files(config)
    if config.evaluation.images is None or config.preprocess is None:
        return Looked(frames=min(len(frames), config.calibration.count))
    dataset = open_dataset(config.evaluation)
    model = run.path(SLIM, "model.onnx")
    settings = config.evaluation.model_copy(update={"limit": min(JUDGED, len(dataset.items)), "batch": None})
    options = OpenOptions(device="cpu", max_batch=SHOWN)
    with engines.get("onnxruntime").open(model, options) as runner, tempfile.TemporaryDirectory() as scratch:
        run.progress(0, None, "the reference on a few images")
        judged = evaluate(runner, settings, config.preprocess, folder=Path(scratch), progress=run.progress)
        shown = _frames(config.preprocess, dataset, runner)
        outputs = _infer(runner, config.preprocess, shown)
        dataset = fitted(dataset, settings, outputs)
        predictions = decode_all(outputs, [frame.geometry for frame in shown], settings, dataset.classes)
        apart = _rows_apart(runner, config.preprocess, shown, outputs)
    picture = folder / "frame.png"
    with storage_errors(picture):
        draw(shown[0], config.preprocess, dataset.classes).save(picture)
    low, high = (float(value) for value in (min(f.array.min() for f in shown), max(f.array.max() for f in shown)))
    examples = dict(zip(dataset.classes, dataset.labelled, strict=False))
    return Looked(
        images=len(dataset.items),
        labels=dataset.said,
        frames=min(len(frames), config.calibration.count) if frames else 0,
        examples=examples,
        judged=judged.images,
        metrics=judged.metrics,
        answers={frame.id: words(prediction) for frame, prediction in zip(shown, predictions, strict=True)},
        low=low,
        high=high,
        warnings=(
            *dataset.notes,
            *_range_warnings(config.preprocess, low, high),
            *_chance_warnings(judged.metrics, examples or judged.examples, judged.images),
            *_row_warnings(apart),
            *_class_warnings(examples, config.gate.critical),
            *_same_files(_evaluation_files(dataset), frames),
        ),
        picture=Artifact.of(picture, folder),
    )


def _frames(preprocess: Preprocess, dataset: Dataset, runner: Runner) -> list[Loaded]:
    """A few images of the set, spread over it and preprocessed; corrupt ones that are allowed are passed over.

    Raises:
        DataError: None of the images that were tried can be read.
    """
    info = image_input(runner.inputs, preprocess)
    last = len(dataset.items) - 1
    places = dict.fromkeys(int(place) for count in (SHOWN, 4 * SHOWN) for place in np.linspace(0, last, count))
    settings, size = in_dtype(preprocess, info), input_size(info, preprocess)
    others = beside(runner.inputs, preprocess, "evaluation")
    shown: dict[int, Loaded] = {}
    for place in places:
        if len(shown) == min(SHOWN, last + 1):
            break
        with suppress(CorruptImage):
            (item,) = take(dataset.items, [place])
            shown[place] = load(item, settings, size, None, others)
    if not shown:
        raise DataError(f"none of {len(places)} evaluation images can be read", do="fix evaluation.images")
    return [shown[place] for place in sorted(shown)]


def _infer(runner: Runner, preprocess: Preprocess, frames: Sequence[Loaded]) -> dict[str, Any]:
    """The outputs for frames, a row for each."""
    step = _step(runner, preprocess) or len(frames)
    name = image_input(runner.inputs, preprocess).name
    parts = []
    for start in range(0, len(frames), step):
        some = frames[start : start + step]
        stack = np.stack([frame.array for frame in some])
        memories = Memories(runner.inputs, preprocess)  # each as the first frame of a sequence
        feeds = feeds_of(runner.inputs, name, stack, [frame.others for frame in some]) | memories.feeds()
        parts.append(memories.take(runner.infer(batch_of(feeds, runner.inputs, step))))
    return {
        key: np.concatenate([part[key] for part in parts])[: len(frames)] if parts[0][key].ndim else parts[0][key]
        for key in parts[0]
    }


def _step(runner: Runner, preprocess: Preprocess) -> int | None:
    """The only number of images that go in at once; None: any."""
    info = image_input(runner.inputs, preprocess)
    axis = info.shape[0] if info.shape else 1
    return axis if isinstance(axis, int) else 1 if single(runner.inputs, preprocess) else None


def _rows_apart(runner: Runner, preprocess: Preprocess, frames: Sequence[Loaded], together: Mapping[str, Any]) -> float:
    """Largest difference of answers alone and in a batch, relative to the range of the output. 0: fixed batch."""
    if _step(runner, preprocess) is not None or len(frames) < 2:
        return 0.0
    worst = 0.0
    alone = [_infer(runner, preprocess, [frame]) for frame in frames]
    for name, whole in together.items():
        rows = [part[name] for part in alone]
        if whole.ndim == 0 or any(row.shape[1:] != whole.shape[1:] for row in rows) or len(whole) != len(frames):
            continue
        apart = np.abs(np.concatenate(rows).astype(np.float64) - whole.astype(np.float64)).max(initial=0.0)
        span = float(np.ptp(whole.astype(np.float64))) if whole.size else 0.0
        worst = max(worst, float(apart) / max(span, 1e-6))
    return worst


def words(prediction: Prediction) -> str:
    """A prediction in a few words."""
    if isinstance(prediction, Classification):
        return ", ".join(f"{name} {score:.2f}" for name, score in prediction.top(3))
    if isinstance(prediction, Detection):
        kept = prediction.above(0.3)
        boxes = [f"{name} {score:.2f}" for name, score in zip(kept.names, kept.scores, strict=True)]
        return ", ".join(boxes[:5]) + (f" and {len(boxes) - 5} more" if len(boxes) > 5 else "") or "nothing above 0.3"
    if isinstance(prediction, Several):
        return "; ".join(f"{name}: {words(item)}" for name, item in prediction.parts.items())
    if isinstance(prediction, Segmentation):
        shares = Counter(prediction.mask[prediction.mask >= 0].ravel().tolist()).most_common(3)
        return ", ".join(f"{prediction.classes[index]} {count / prediction.mask.size:.0%}" for index, count in shares)
    if isinstance(prediction, Depth):
        low, middle, high = np.nanpercentile(prediction.metres, (0, 50, 100))
        return f"{low:.3g} to {high:.3g} m, half of it within {middle:.3g} m"
    if isinstance(prediction, Text):
        return repr(prediction.text)
    if isinstance(prediction, Embedding):
        return f"a vector of {prediction.vector.size}"
    return ", ".join(f"{name} {list(value.shape)}" for name, value in prediction.outputs.items())


def _range_warnings(preprocess: Preprocess, low: float, high: float) -> list[str]:
    unit = all(0 <= value <= 1 for value in (*preprocess.mean, *preprocess.std)) and any(preprocess.mean)
    if preprocess.dtype == "uint8" or preprocess.scale != 1.0 or not (unit or max(-low, high) > LARGE_INPUT):
        return []
    if unit:
        return [
            f"preprocess: mean {list(preprocess.mean)} and std {list(preprocess.std)} look like those of pixels from 0 "
            f"to 1, and pixels are 0 to 255 here: the network's input reaches from {low:.3g} to {high:.3g}; set "
            "scale = 0.00392157 (1/255), or multiply both by 255"
        ]
    if set(preprocess.std) == {1.0} and not any(preprocess.mean):
        return []  # a network that takes pixels as they are
    return [
        f"preprocess: the network's input reaches from {low:.3g} to {high:.3g}, where training commonly has -3 to 3; "
        "compare scale, mean and std with the training code"
    ]


def _chance_warnings(metrics: Mapping[str, float], examples: Mapping[str, int], images: int) -> list[str]:
    """Doubt a classifier that is no better than always saying the most common class, a detector that finds nothing."""
    total = sum(examples[name] for name in examples)
    if "top1" in metrics and total:
        chance = max(examples.values()) / total
        error = math.sqrt(chance * (1 - chance) / max(images, 1))
        if metrics["top1"] <= chance + CHANCE_SIGMAS * error and chance < 1:
            return [
                f"the reference is right on {metrics['top1']:.0%} of {images} images, and always saying the most "
                f"common class would be right on {chance:.0%}: labels, the order of evaluation.classes or preprocess "
                "are wrong"
            ]
    for name in ("map50", "miou"):
        if name in metrics and metrics[name] < 0.05:
            return [
                f"the reference has {name} {metrics[name]:.3f} on {images} images: labels, evaluation.classes, "
                "evaluation.decoder or preprocess are wrong"
            ]
    return []


def _row_warnings(apart: float) -> list[str]:
    if apart <= ROW_TOLERANCE:
        return []
    return [
        f"answers differ between batch 1 and batch {SHOWN}: by {apart:.2g} of the output's range. An image's answer "
        "depends on its neighbours, so figures of one batch say nothing about another"
    ]


def _class_warnings(examples: Mapping[str, int], critical: Mapping[str, float]) -> list[str]:
    few = {name: count for name, count in examples.items() if 0 < count < FEW}
    none = [name for name, count in examples.items() if count == 0]
    found = []
    if few:
        told = ", ".join(f"{name} has {count}" for name, count in list(few.items())[:8])
        found.append(f"classes with few labelled examples show little: {told}" + (" …" if len(few) > 8 else ""))
    if none:
        sure = [name for name in none if name in critical]
        found.append(
            f"{len(none)} of {len(examples)} classes have no labelled example: {', '.join(none[:8])}"
            + (" …" if len(none) > 8 else "")
            + (f"; critical ones among them: {', '.join(sure)}" if sure else "")
        )
    return found


def _calibration_files(config: Config) -> list[Path]:
    """The image files of the calibration; empty where frames come from elsewhere."""
    source = config.calibration.images
    return [] if source is None or is_reference(source) or not source.is_dir() else image_files(source)


def _evaluation_files(dataset: Dataset) -> list[Path]:
    """The image files of the evaluation; empty where they come from elsewhere."""
    items = dataset.items if isinstance(dataset.items, tuple) else ()
    return [item.source for item in items if isinstance(item.source, Path)]


def _same_files(evaluation: Sequence[Path], calibration: Sequence[Path]) -> list[str]:
    """Copies among the evaluation images, and images that are calibration frames too, by their content."""
    sizes: dict[int, list[Path]] = {}
    for path in dict.fromkeys((*evaluation, *calibration)):
        sizes.setdefault(path.stat().st_size, []).append(path)
    digests = {path: sha256_file(path) for paths in sizes.values() if len(paths) > 1 for path in paths}
    judging = Counter(digests.get(path, str(path)) for path in dict.fromkeys(evaluation))
    ranging = {digests.get(path, str(path)) for path in calibration}
    found = []
    if len(judging) < judging.total():
        most = max(judging.values())
        found.append(
            f"{judging.total()} evaluation files are {len(judging)} different pictures (one of them {most} times): a "
            "copy counts once"
        )
    shared = sum(count for picture, count in judging.items() if picture in ranging)
    if shared:
        found.append(
            f"{shared} of {judging.total()} evaluation images are also calibration frames: INT8 is judged on what set "
            "its ranges"
        )
    return found


def draw(frame: Loaded, preprocess: Preprocess, classes: Sequence[str]) -> Image.Image:
    """A frame as the network sees it, in RGB, with its boxes or its mask drawn."""
    values = np.asarray(frame.array, dtype=np.float32)
    if preprocess.layout == "nchw":
        values = values.transpose(1, 2, 0)
    pixels = (values * np.asarray(preprocess.std) + np.asarray(preprocess.mean)) / preprocess.scale
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if preprocess.color == "bgr":
        pixels = pixels[:, :, ::-1]
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    factor = max(1, -(-LEAST_SIDE // max(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if isinstance(frame.target, Boxes):
        _draw_boxes(picture, frame, factor, classes)
    elif isinstance(frame.target, np.ndarray) and frame.target.ndim == 2:
        picture = _draw_mask(picture, frame, factor)
    return picture


def _draw_boxes(picture: Image.Image, frame: Loaded, factor: int, classes: Sequence[str]) -> None:
    place, pen = frame.geometry, ImageDraw.Draw(picture)
    for box, label in zip(frame.target.boxes, frame.target.labels, strict=True):
        scaled = box * np.tile([place.scale_x, place.scale_y], 2)
        moved = (scaled + np.tile([place.left, place.top], 2)) * factor
        pen.rectangle(moved.tolist(), outline=(255, 64, 0), width=2)
        name = classes[label] if label < len(classes) else str(label)
        pen.text((moved[0] + 3, moved[1] + 1), name.encode("ascii", "replace").decode(), fill=(255, 255, 0))


def _draw_mask(picture: Image.Image, frame: Loaded, factor: int) -> Image.Image:
    """The picture under its mask, each class in a colour of its own."""
    place = frame.geometry
    rows = np.floor((np.arange(place.input_height) + 0.5 - place.top) / place.scale_y).astype(int)
    columns = np.floor((np.arange(place.input_width) + 0.5 - place.left) / place.scale_x).astype(int)
    inside = np.outer((rows >= 0) & (rows < place.height), (columns >= 0) & (columns < place.width))
    labels = frame.target[np.clip(rows, 0, place.height - 1)][:, np.clip(columns, 0, place.width - 1)]
    colours = np.random.default_rng(7).integers(64, 256, (256, 3), dtype=np.uint8)
    painted = colours[labels.astype(np.int64) % 256]
    painted[~inside] = 0
    mask = Image.fromarray(painted).resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture, mask, 0.45)


LOOK = Stage("look", Looked, look_key, look_work)
