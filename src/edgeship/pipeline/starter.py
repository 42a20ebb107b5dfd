"""A config for a model: what its file, its outputs and the folders of pictures tell, written as commented TOML."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeship import engines
from edgeship.config import Evaluation, InputSpec, Model, Preprocess
from edgeship.data.datasets import open_dataset
from edgeship.data.frames import image_files, spread
from edgeship.data.locate import OBJECT_TASKS, located
from edgeship.data.preprocess import SUFFIXES, open_image
from edgeship.data.reference import importable
from edgeship.engines import Runner
from edgeship.errors import DataError, EdgeshipError, UserInputError
from edgeship.pipeline.head import with_scores
from edgeship.pipeline.model_guess import Guess, Size, opened
from edgeship.pipeline.starter_text import Content, config_text, in_short
from edgeship.results.trial_folder import RECORDS
from edgeship.text import did_you_mean
from edgeship.trial.evaluate import evaluate, load_records

IMAGENET: dict[str, Any] = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
COLOURS = (IMAGENET["mean"],)
"""Means that are those of colour pictures."""
YOLOX = {"fit": "letterbox", "color": "bgr", "pad_align": "top-left"}
WAYS: dict[str, tuple[dict[str, Any], ...]] = {
    "classification": tuple(
        {"fit": fit, **values}
        for fit in ("center-crop", "stretch")
        for values in (IMAGENET, {"std": (255.0,)}, {"mean": (127.5,), "std": (127.5,)}, {})
    ),
    "detection": (
        {"fit": "letterbox", "std": (255.0,)},
        YOLOX,
        {"fit": "letterbox", **IMAGENET},
        {"fit": "stretch", **IMAGENET},
        {"fit": "stretch", "std": (255.0,)},
    ),
    "segmentation": (
        {"fit": "stretch", **IMAGENET},
        {"fit": "stretch", "std": (255.0,)},
        {"fit": "stretch", "mean": (127.5,), "std": (127.5,)},
        {"fit": "stretch"},
    ),
}
"""Common ways to preprocess, by task: init measures the reference with each on labelled images and takes the best."""
WAYS |= dict.fromkeys(("instances", "keypoints", "rotated"), WAYS["detection"])
METRIC = {"classification": "top1", "detection": "map50", "segmentation": "miou"}
METRIC |= dict.fromkeys(("instances", "keypoints", "rotated"), "map50")
TYPICAL = {"detection": "yolox", "instances": "ultralytics-seg", "keypoints": "ultralytics-pose"}
TYPICAL["rotated"] = "ultralytics-obb"
"""The decoder of a config that has no model to look at."""
TRIED = 60
"""Images that each way is measured on."""
TIE = 1 / TRIED
"""Ways that differ by no more than this are not told apart."""
SURE = 0.6
"""An order of class names with which the reference reaches this is taken for the model's own."""
POOR = 0.5
"""A reference below this was likely preprocessed in another way."""
SMALL = 1024
"""Pictures up to this size, all of one size, are likely of the network's own size."""


@dataclass(frozen=True)
class Asked:
    """What the user says of the model and the data; None: to be found out."""

    source: str | None
    """None: a config to fill in."""
    root: Path
    """The folder that the config is written to."""
    weights: Path | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    engine: str = "onnxruntime"
    images: Path | None = None
    labels: Path | None = None
    calibration: Path | None = None


@dataclass(frozen=True)
class Started:
    """A config's text, and what init found out and could not."""

    text: str
    found: tuple[str, ...]
    open: tuple[str, ...]
    """What the user has to fill in or confirm."""


def start(asked: Asked) -> Started:
    """Write the config of a model.

    Raises:
        EdgeshipError: The model does not load, or a folder that was named cannot be used.
    """
    if asked.task is not None and asked.task not in METRIC:
        raise UserInputError(f"there is no task {did_you_mean(asked.task, METRIC)}", expected=", ".join(METRIC))
    offered = engines.known()
    if asked.engine not in offered:
        raise UserInputError(f"there is no engine {did_you_mean(asked.engine, offered)}", expected=", ".join(offered))
    if asked.source is None:
        return _template(asked)
    model = Model.model_validate({"source": asked.source, "weights": asked.weights, "inputs": asked.inputs})
    with importable(asked.root), opened(model, asked.root, _common_size(asked)) as (guess, runner):
        task = asked.task or guess.task
        if task is None:
            shapes = ", ".join(f"{item.name} {list(item.shape)}" for item in guess.outputs)
            raise UserInputError(
                f"the outputs ({shapes}) look like none of {', '.join(METRIC)}",
                do='say which with --task, and write a decoder: evaluation.decoder = "module:callable"',
            )
        evaluation = _evaluation(asked, task, guess)
        if Path(asked.source).suffix == ".onnx":
            evaluation = with_scores(evaluation, Path(asked.source))
        measured = _measured(task, guess, evaluation, runner)
        preprocess = measured[0].preprocess if measured else _ways(task, guess, None)[0]
        if len(guess.inputs) > 1:
            preprocess = preprocess.model_copy(update={"input": guess.image[0]})
        if measured and measured[0].classes is not None:
            evaluation = evaluation.model_copy(update={"classes": measured[0].classes})
    return Started(
        config_text(Content(asked.root, model, guess, evaluation, preprocess, asked.calibration, asked.engine)),
        tuple(_found(guess, evaluation, measured)),
        tuple(_open(asked, guess, evaluation, measured)),
    )


def _common_size(asked: Asked) -> Size | None:
    """(height, width) of the pictures where a few of them have one small size."""
    folder = asked.images or asked.calibration
    if folder is None or not folder.is_dir():
        return None
    sizes = set()
    for path in image_files(folder)[:8]:
        with Image.open(path) as picture:
            sizes.add((picture.height, picture.width))
    only = sizes.pop() if len(sizes) == 1 else None
    return only if only is not None and max(only) <= SMALL else None


def _evaluation(asked: Asked, task: str, guess: Guess) -> Evaluation:
    """Images, labels and class names as far as they are found; no images where none were named."""
    settings: dict[str, Any] = {"task": task, "images": asked.images, "labels": asked.labels}
    if task in OBJECT_TASKS:
        settings["decoder"] = guess.decoder if task == guess.task else TYPICAL.get(task)
    if asked.images is None:
        return Evaluation.model_validate(settings)
    if asked.labels is None:
        settings["labels"] = _beside(asked.images, task)
    if task == "classification" and settings["labels"] is None:
        folders = sorted(
            path.name for path in asked.images.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
        if guess.classes == len(folders):
            settings["classes"] = tuple(folders)
    if task in OBJECT_TASKS and settings["labels"] is not None:
        names = open_dataset(Evaluation.model_validate(settings | {"decoder": None})).classes
        if guess.classes in (None, len(names)):
            settings["classes"] = names
    return Evaluation.model_validate(settings)


def _beside(images: Path, task: str) -> Path | None:
    """The labels that lie in the folder of images or beside it, where there is one candidate."""
    known = located(Evaluation(task=task, images=images)).labels
    if known is not None:
        return known
    if task == "segmentation":
        found = [images.parent / name for name in ("masks", "labels", "annotations") if (images.parent / name).is_dir()]
    else:
        suffixes = (".json",) if task in OBJECT_TASKS else (".csv", ".json")
        found = [
            path
            for folder in (images, images.parent)
            for path in sorted(folder.iterdir())
            if path.suffix in suffixes and (task not in OBJECT_TASKS or _is_coco(path))
        ]
        loose = any(path.suffix.lower() in SUFFIXES for path in images.iterdir())
        if task == "classification" and not loose:
            return None
    return found[0] if len(found) == 1 else None


def _is_coco(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def _own_statistics(folder: Path | None, *, gray: bool) -> dict[str, Any] | None:
    """Mean and standard deviation of the pictures themselves, by channel in RGB, which some trainings use."""
    if folder is None or not folder.is_dir():
        return None
    files = image_files(folder)
    chosen = [files[place] for place in spread(len(files), TRIED)]
    pixels = [open_image(path.read_bytes(), str(path)).convert("L" if gray else "RGB") for path in chosen]
    flat = np.concatenate([np.asarray(item, np.float64).reshape(-1, 1 if gray else 3) for item in pixels])
    return {
        "mean": tuple(round(float(value), 1) for value in flat.mean(axis=0)),
        "std": tuple(max(round(float(value), 1), 1.0) for value in flat.std(axis=0)),
    }


def _ways(task: str, guess: Guess, images: Path | None) -> list[Preprocess]:
    """The common ways for this input: its channels, layout, dtype and size."""
    name, spec = guess.image
    shape = spec.shape
    layout = "nhwc" if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw"
    channels = shape[3 if layout == "nhwc" else 1] if len(shape) == 4 else 3
    sides = shape[1:3] if layout == "nhwc" else shape[2:4]
    common: dict[str, Any] = {"layout": layout}
    if len(guess.inputs) > 1:
        common["input"] = name
    if any(isinstance(side, str) for side in sides):
        common["size"] = (640, 640) if task in OBJECT_TASKS else (224, 224)
    if spec.dtype in ("uint8", "float16"):
        common["dtype"] = spec.dtype
    found = []
    own = _own_statistics(images, gray=channels == 1)
    for way in (*WAYS[task], *([{"fit": "stretch", **own}] if own is not None else [])):
        values = common | way
        if channels == 1:
            values |= {"color": "gray", **({"mean": (127.5,), "std": (127.5,)} if way.get("mean") in COLOURS else {})}
        if spec.dtype == "uint8":
            values = {key: value for key, value in values.items() if key not in ("mean", "std")}
        made = Preprocess.model_validate(values)
        if made not in found:
            found.append(made)
    return found


@dataclass(frozen=True)
class Measured:
    """A way to preprocess, and what the reference reaches with it on labelled images."""

    preprocess: Preprocess
    value: float
    classes: tuple[str, ...] | None = None
    """The order of the class names that the model's answers fit, where it is another than the one given."""


def _measured(task: str, guess: Guess, evaluation: Evaluation, runner: Runner) -> list[Measured]:
    """The common ways, the best first; none where there are no labelled images."""
    if evaluation.images is None or (task != "classification" and evaluation.labels is None):
        return []
    if len(guess.inputs) > 1:  # the other inputs are still to be declared
        return []
    found: list[Measured] = []
    settings = evaluation.model_copy(update={"limit": TRIED})
    open_dataset(settings)  # its own errors first
    with tempfile.TemporaryDirectory() as scratch:
        for way in _ways(task, guess, evaluation.images):
            try:
                value = evaluate(runner, settings, way, folder=Path(scratch)).metrics.get(METRIC[task], 0.0)
            except DataError:
                raise
            except EdgeshipError:
                continue
            order = _order(load_records(Path(scratch) / RECORDS)) if task == "classification" else None
            if order is not None and order[1] >= SURE and order[1] > value:
                found.append(Measured(way, order[1], order[0]))
            else:
                found.append(Measured(way, value))
    return sorted(found, key=lambda item: -item.value)


def _tied(measured: list[Measured]) -> int:
    """How many of the best ways the images do not tell apart: they differ by the answer to one image at most."""
    return sum(measured[0].value - item.value <= TIE for item in measured)


def _order(records: Mapping[str, Any]) -> tuple[tuple[str, ...], float] | None:
    """The order of class names that the answers fit best, and the top-1 with it; None: not one name for each output."""
    names, label, answer = records["classes"].tolist(), records["label"], records["top"][:, 0]
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (answer, label), 1)
    order: dict[int, int] = {}
    for output, known in sorted(np.ndindex(counts.shape), key=lambda place: -counts[place]):
        if output not in order and known not in order.values() and counts[output, known]:
            order[output] = known
    if len(order) < len(names) or not len(label):
        return None
    right = sum(int(counts[output, known]) for output, known in order.items())
    return tuple(names[order[output]] for output in range(len(names))), right / len(label)


def _template(asked: Asked) -> Started:
    """A config without a model to look at: a common input of the task, to be filled in."""
    task = asked.task or "classification"
    side = 640 if task in OBJECT_TASKS else 224
    inputs = {"images": InputSpec(shape=("batch", 3, side, side))}
    guess = Guess(inputs, (), task, TYPICAL.get(task), None, tried_size=True)
    evaluation = Evaluation(task=task, images=asked.images, labels=asked.labels, decoder=guess.decoder)
    preprocess = Preprocess.model_validate(YOLOX if task == "detection" else WAYS[task][0])
    model = Model(source="model:build")
    return Started(
        config_text(Content(asked.root, model, guess, evaluation, preprocess, asked.calibration, asked.engine)),
        (),
        (
            "model.source: a function that returns your nn.Module, or an .onnx file",
            *_open(asked, guess, evaluation, []),
        ),
    )


def _found(guess: Guess, evaluation: Evaluation, measured: list[Measured]) -> list[str]:
    """What was found out, a line each."""
    found = [f"input {name}: {spec.dtype} {list(spec.shape)}" for name, spec in guess.inputs.items()]
    found += [f"output {item.name}: {item.dtype} {list(item.shape)}" for item in guess.outputs]
    found.append(f"task {evaluation.task}" + (f", decoder {evaluation.decoder}" if evaluation.decoder else ""))
    metric = METRIC[evaluation.task]
    return found + [f"preprocess {in_short(item.preprocess)}: {metric} {item.value:.3f}" for item in measured]


def _open(asked: Asked, guess: Guess, evaluation: Evaluation, measured: list[Measured]) -> list[str]:
    """What the user has to fill in or confirm, a line each."""
    left = []
    if not measured:
        left.append("preprocess: a common way, not yours: put in what the model was trained with")
    elif measured[0].value < POOR:
        left.append(f"preprocess: no common way gives a good {METRIC[evaluation.task]}: put in what training used")
    elif (tied := _tied(measured)) > 1:
        ways = "; ".join(in_short(item.preprocess) for item in measured[:tied])
        left.append(
            f"preprocess: {tied} common ways do equally well on these images, and the first was written: {ways}; only "
            "the training code tells which is right"
        )
    others = [name for name in guess.inputs if name != guess.image[0]]
    if others:
        left.append(f"inputs: say where the values of {', '.join(others)} come from")
    if guess.tried_size:
        left.append("model.inputs: height and width are the first that the model took: put in those of training")
    if evaluation.images is None:
        left.append("evaluation.images: name labelled images; without them no accuracy is judged")
    elif evaluation.task != "classification" and evaluation.labels is None:
        left.append("evaluation.labels: name the " + ("COCO JSON" if evaluation.task in OBJECT_TASKS else "masks"))
    elif evaluation.classes is None and guess.classes is not None:
        left.append(f"evaluation.classes: the model has {guess.classes} outputs; name them in their order")
    elif measured and measured[0].classes is not None:
        left.append("evaluation.classes: in the order that the model's answers fit; compare it with the training code")
    elif evaluation.task == "classification":
        left.append("evaluation.classes: the folders in alphabetical order; the order must be that of the outputs")
    if asked.calibration is None:
        left.append("calibration.images: name frames of the deployment camera; the evaluation images set no ranges")
    return left
