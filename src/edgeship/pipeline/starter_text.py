"""The text of a config, with every default as a comment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.config import (
    Benchmark,
    Calibration,
    Candidates,
    Evaluation,
    Gate,
    Model,
    Preprocess,
    Section,
    Target,
    takes_tensorrt_graphs,
)
from edgeship.pipeline.model_guess import Guess

LIMIT = {
    "classification": "top1",
    "detection": "map",
    "instances": "map",
    "keypoints": "map",
    "rotated": "map",
    "segmentation": "miou",
}
"""The metric of the first rule, by task."""


@dataclass(frozen=True)
class Content:
    """What a config says beside the defaults. ``root`` is its folder."""

    root: Path
    model: Model
    guess: Guess
    evaluation: Evaluation
    preprocess: Preprocess
    calibration: Path | None
    engine: str


def config_text(content: Content) -> str:
    """The config as commented TOML."""
    lines = [
        "# edgeship: from a PyTorch model to an engine that may ship.",
        "# Commented keys show their defaults; docs/reference/config.md explains each.",
        *_model(content),
        *_table("preprocess", content.preprocess, "calibration, evaluation and the vehicle use the same"),
        *_inputs(content),
        *_calibration(content),
        *_evaluation(content),
        *_target(content),
        *_gate(content),
    ]
    return "\n".join(lines) + "\n"


def _model(content: Content) -> list[str]:
    source = content.model.source
    lines = ["", "[model]", f"source = {toml(_near(source, content.root))}"]
    if content.model.weights is not None:
        lines.append(f"weights = {toml(_near(content.model.weights, content.root))}")
    lines += _defaults(Model, {"source", "weights", "inputs", "arguments"})
    if Path(source).suffix in (".onnx", ".pt2"):
        return lines
    for name, spec in content.guess.inputs.items():
        guessed = "    # height and width: tried, not known" if content.guess.tried_size else ""
        lines += [
            "",
            f"[model.inputs.{name}]",
            f"shape = {toml(list(spec.shape))}{guessed}",
            f"dtype = {toml(spec.dtype)}",
        ]
    return lines


def _inputs(content: Content) -> list[str]:
    """A table to fill in for each input beside the image."""
    lines: list[str] = []
    for name, spec in content.guess.inputs.items():
        if name == content.guess.image[0]:
            continue
        lines += ["", f"[inputs.{name}]    # {spec.dtype} {toml(list(spec.shape))}: where its values come from"]
        folders = [f'calibration = "calib/{name}"', f'evaluation = "val/{name}"']
        if len(spec.shape) == 4:
            lines += ['from = "images"    # another camera', *folders]
        elif spec.shape[-1:] == (2,) and "size" in name.lower():
            lines += ['from = "image_size"', '# order = "height-width"    # or "width-height"']
        else:
            lines += [
                'from = "arrays"    # an .npy for each image; or value = a constant, or "columns" of a CSV',
                *folders,
            ]
    return lines


def _calibration(content: Content) -> list[str]:
    if content.calibration is None:
        first = '# images = "calib/"    # frames of the deployment camera; then add "int8" to precisions below'
    else:
        first = f"images = {toml(_near(content.calibration, content.root))}    # frames of the deployment camera"
    return ["", "[calibration]", first, *_defaults(Calibration, {"images"})]


def _evaluation(content: Content) -> list[str]:
    settings = content.evaluation
    lines = ["", "[evaluation]", f"task = {toml(settings.task)}"]
    if settings.images is None:
        lines.append('# images = "val/"    # labelled images')
    else:
        lines.append(f"images = {toml(_near(settings.images, content.root))}")
    if settings.labels is not None:
        lines.append(f"labels = {toml(_near(settings.labels, content.root))}")
    if isinstance(settings.classes, tuple):
        lines.append(f"classes = {toml(settings.classes)}    # in the order of the outputs")
    else:
        lines.append('# classes = "classes.txt"    # one name a line, in the order of the outputs')
    if settings.decoder is not None:
        lines.append(f"decoder = {toml(settings.decoder)}")
    return lines + _defaults(Evaluation, {"task", "images", "labels", "classes", "decoder"})


def _target(content: Content) -> list[str]:
    cpu = not takes_tensorrt_graphs(content.engine)
    _, spec = content.guess.image
    fixed = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else None
    low, high = (fixed, fixed) if fixed else (1, 8)
    precisions = ["fp32", *([] if cpu else ["fp16"]), *([] if content.calibration is None else ["int8"])]
    return [
        "",
        "[target]",
        f"engine = {toml(content.engine)}",
        f"device = {toml('cpu' if cpu else 'cuda:0')}",
        f"batch = {{ min = {low}, opt = {low}, max = {high} }}    # opt: the batch that you serve",
        '# host = "user@device"    # trials run there, over SSH',
        *_defaults(Target, {"engine", "device", "batch", "shapes", "host"}),
        "",
        "[candidates]",
        f"precisions = {toml(precisions)}",
        *_defaults(Candidates, {"precisions"}),
        "",
        "[benchmark]",
        *_defaults(Benchmark, set()),
    ]


def _gate(content: Content) -> list[str]:
    settings = content.evaluation
    judged = settings.images is not None and (settings.task == "classification" or settings.labels is not None)
    limit = f"max_drop = {{ {LIMIT[settings.task]} = 0.01 }}    # of 1: one point"
    return [
        "",
        "[gate]",
        "latency_p99_ms = 33.0    # a frame at 30 images a second",
        limit if judged else f"# {limit}; needs labelled images",
        "# critical = { pedestrian = 0.01 }    # classes with a rule of their own",
        *_defaults(Gate, {"latency_p99_ms", "max_drop", "critical"}),
    ]


def _near(path: str | Path, root: Path) -> str:
    """A path as the config has it: relative to its folder where it lies below."""
    if isinstance(path, str) and Path(path).suffix not in (".onnx", ".pt2"):
        return path
    place = Path(path).resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)


def _table(name: str, section: Section, comment: str) -> list[str]:
    """A table with what differs from the defaults, and the defaults as comments."""
    plain = type(section)()
    own = [key for key in type(section).model_fields if getattr(section, key) != getattr(plain, key)]
    lines = ["", f"[{name}]    # {comment}"]
    lines += [f"{key} = {toml(getattr(section, key))}" for key in own]
    return lines + _defaults(type(section), set(own))


def _defaults(kind: type[Section], without: set[str]) -> list[str]:
    """The remaining keys of a table with their defaults, as comments; a key without a default value is left out."""
    lines = []
    for key, described in kind.model_fields.items():
        if key in without or described.is_required():
            continue
        value = described.get_default(call_default_factory=True)
        if value is not None and not isinstance(value, (Section, Mapping)) and value != ():
            lines.append(f"# {key} = {toml(value)}")
    return lines


def in_short(section: Preprocess) -> str:
    """What tells ways to preprocess apart."""
    return ", ".join(f"{key} {toml(getattr(section, key))}" for key in ("fit", "color", "mean", "std"))


def toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False)
    return str(value)
