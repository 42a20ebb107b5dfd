"""``evaluate``: task metrics of one engine."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import checked, engine_name, preprocess_of, section_of
from edgeship.errors import UserInputError

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.config import EngineName, Evaluation, Preprocess
    from edgeship.results import Evaluated

TASK = typer.Option(
    None, help="classification | detection | instances | keypoints | rotated | segmentation | depth | text | …"
)
IMAGES = typer.Option(None, help="Folder of labelled images, a video, a bag, an .npz, or module:callable.")
LABELS = typer.Option(None, help="CSV or JSON of labels, COCO JSON, or the folder of masks.")
CLASSES = typer.Option(None, help="Text file with one class name a line, in the order of the model's outputs.")
DECODER = typer.Option(None, help="Decoder of the outputs (default: the only one that fits them).")
PREPROCESS = typer.Option(
    [], "--preprocess", "-p", help="A setting of [preprocess] as key=value, such as mean=127,127,127; repeat."
)
SETTINGS = typer.Option(
    [], "--set", "-s", help="Another setting of [evaluation] as key=value, such as nms_iou=0.7; repeat."
)
CONFIG = typer.Option(None, "--config", "-c", help="An edgeship.toml to take [preprocess] and [evaluation] from.")
ENGINE = typer.Option(
    None,
    "--engine",
    "-e",
    help="onnxruntime | openvino | tensorrt | tensorrt-rtx | onnxruntime-rtx (default for .onnx: onnxruntime)",
)
OUT = typer.Option(None, "--out", "-o", help="Folder for evaluation.json and records.npz (default: only print).")


@app.command()
def evaluate(
    model: Path = typer.Argument(help="An engine file or an .onnx file."),
    images: Path | None = IMAGES,
    labels: Path | None = LABELS,
    task: str | None = TASK,
    classes: Path | None = CLASSES,
    decoder: str | None = DECODER,
    preprocess: list[str] = PREPROCESS,
    settings: list[str] = SETTINGS,
    config: Path | None = CONFIG,
    engine: str | None = ENGINE,
    device: str = typer.Option("cpu", help="cpu or cuda:0."),
    batch: int | None = typer.Option(None, help="Images inferred at once, where the batch axis is dynamic."),
    limit: int | None = typer.Option(None, help="Use this many images, spread evenly over the set."),
    out: Path | None = OUT,
    as_json: bool = JSON_OPTION,
) -> None:
    """Task metrics of an engine on labelled images: overall, per class, per size."""
    from edgeship import engines
    from edgeship.data.reference import importable
    from edgeship.engines import OpenOptions
    from edgeship.pipeline.head import with_scores
    from edgeship.results import write
    from edgeship.trial.evaluate import BATCH
    from edgeship.trial.evaluate import evaluate as run

    name = _engine(model, engine)
    given = {"task": task, "images": images, "labels": labels, "classes": classes, "decoder": decoder}
    chosen, steps = _settings(config, given | {"batch": batch, "limit": limit}, settings, preprocess)
    if model.suffix == ".onnx":
        chosen = with_scores(chosen, model)
    with ExitStack() as stack:
        if config is not None:
            stack.enter_context(importable(config.parent.resolve()))
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeship-")))
        options = OpenOptions(device=device, max_batch=chosen.batch or BATCH, judging=True)
        runner = stack.enter_context(engines.get(name).open(model, options))
        progress = stack.enter_context(progress_bar(quiet=as_json))
        result = run(runner, chosen, steps, folder=folder, progress=progress)
    if out is None:
        result = result.model_copy(update={"records": None})
    else:
        write(result, out / "evaluation.json")
    emit(result, as_json=as_json, lines=lambda: _lines(result, out))


def _settings(
    config: Path | None, given: dict[str, object], texts: list[str], preprocess: list[str]
) -> tuple[Evaluation, Preprocess]:
    """The config's tables under what the command line says."""
    from edgeship import config as configs
    from edgeship.config_file import load
    from edgeship.data.streams import scratch, unpacked

    base, steps, take = configs.Evaluation(), None, configs.FrameStreams()
    if config is not None:
        loaded = load(config)
        base, steps, take = loaded.evaluation, loaded.preprocess, loaded.frames
    known = {key: value for key, value in given.items() if value is not None}
    base = checked(configs.Evaluation, base.model_dump() | known, "evaluate")
    steps = preprocess_of(preprocess, steps)
    if steps is None:
        raise UserInputError(
            "no preprocessing was given, and no default fits every model",
            expected="the steps the model was trained with",
            do="give -p fit=center-crop -p mean=… -p std=…, or --config edgeship.toml",
        )
    found = section_of(configs.Evaluation, texts, "--set", base)
    if found.images is not None:
        found = found.model_copy(update={"images": unpacked(found.images, take, steps.raw, scratch())})
    return found, steps


def _engine(model: Path, name: str | None) -> EngineName:
    if not model.is_file():
        raise UserInputError(f"no file at {model}", do="name an engine or an .onnx file")
    if name is not None:
        return engine_name(name)
    if model.suffix == ".onnx":
        return "onnxruntime"
    raise UserInputError(f"{model.name} does not say which engine runs it", do="add --engine tensorrt, or another")


def _lines(result: Evaluated, out: Path | None) -> Lines:
    from rich.table import Table

    yield f"{result.task}: {result.images} images, {result.images_per_s:.1f} images/s"
    for name, value in result.metrics.items():
        yield f"  {name:<16} {value:.4f}"
    if result.per_class:
        table = Table(box=None, pad_edge=False)
        for column in ("class", *result.per_class, "examples"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, count in result.examples.items():
            if count:
                values = [row.get(name) for row in result.per_class.values()]
                table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values), str(count))
        yield table
    if result.labels:
        yield f"labels: {result.labels}"
    yield from (*result.notes, *(f"skipped {name}" for name in result.skipped))
    if out is not None:
        yield f"wrote {out / 'evaluation.json'}"
