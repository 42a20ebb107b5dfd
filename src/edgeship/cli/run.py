"""``run``: predictions of a bundle, and the time of each part of a frame."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar
from edgeship.cli.output import JSON_OPTION, show_each, write_json_rows
from edgeship.cli.settings import KEY_OPTION, MIN_RELEASE_OPTION, MODEL_ID_OPTION, NO_SHIP_OPTION, THRESHOLD_OPTION
from edgeship.errors import DataError, OutputError

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.runtime.model import Frame, Model

PARTS = ("preprocess", "infer", "postprocess", "total")


@app.command()
def run(
    path: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle: a folder or a zip."),
    images: list[Path] = typer.Argument(..., help="Images, videos or bags to predict."),
    every: int = typer.Option(1, "--every", min=1, help="Of a video or a bag, predict every n-th frame."),
    topic: str | None = typer.Option(None, "--topic", help="The topic of a bag; default: its only one of images."),
    key: list[Path] = KEY_OPTION,
    threshold: int | None = THRESHOLD_OPTION,
    min_release: int | None = MIN_RELEASE_OPTION,
    model_id: str | None = MODEL_ID_OPTION,
    allow_no_ship: bool = NO_SHIP_OPTION,
    budget: float | None = typer.Option(None, "--budget-ms", min=0, help="Longest time for a frame, in milliseconds."),
    device: str | None = typer.Option(None, "--device", help="Default: the one it was built for."),
    allow_misfit: bool = typer.Option(False, "--allow-misfit", help="Try an engine built for another machine."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Predict images with a bundle; shows the time of each part of the frame against the budget.

    The first image is predicted once before, which is not counted: the first frame of a process loads libraries.
    """
    from edgeship.config import FrameStreams
    from edgeship.data.streams import is_stream

    absent = [str(image) for image in images if not image.is_file() and not is_stream(image)]
    if absent:
        raise DataError(
            f"no image at {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}",
            do="check the path; nothing was run",
        )
    from edgeship.bundle import Trust
    from edgeship.bundle.find import find_bundle
    from edgeship.runtime.frames import frame_files
    from edgeship.runtime.model import LoadOptions, open_bundle

    options = LoadOptions(
        device=device,
        trust=Trust(tuple(key), threshold, min_release, model_id),
        budget_ms=budget,
        allow_misfit=allow_misfit,
        allow_no_ship=allow_no_ship,
    )
    take = FrameStreams(every=every, topic=topic)
    with tempfile.TemporaryFile("w+", encoding="ascii") as kept:  # the predictions of a video may outgrow memory
        with progress_bar(quiet=as_json) as progress, open_bundle(find_bundle(path), options) as model:
            files = frame_files(images, take, model.manifest.preprocess, progress)
            progress(0, len(files), "warming up")
            model.warm_up(files[0][1])
            for number, (name, image) in enumerate(files):
                progress(number, len(files), "predicting")
                if number and name.parent != files[number - 1][0].parent:
                    model.reset()  # another folder or recording: another sequence
                kept.write(json.dumps(_predicted(model, name, image)) + "\n")
            seen = model.statistics()
        told = {"missed": seen.missed, "budget_ms": budget, "p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms}
        kept.seek(0)
        if as_json:
            write_json_rows("frames", (line.strip() for line in kept), told)
        else:
            show_each(show_frames((json.loads(line) for line in kept), told))


def _predicted(model: Model, name: Path, image: Path) -> dict[str, Any]:
    confidence = model.manifest.evaluation.operating_confidence if model.manifest.evaluation else 0.0
    try:
        return frame_json(name, model.predict(image), confidence)
    except OutputError as error:
        raise error.of(str(name)) from None


def frame_json(image: Path, frame: Frame, confidence: float) -> dict[str, Any]:
    """One frame as plain values. Boxes below ``confidence`` are left out."""
    timing = frame.timing
    return {
        "image": str(image),
        **_prediction(frame.prediction, confidence),
        "preprocess_ms": timing.preprocess_ms,
        "wait_ms": timing.wait_ms,
        "infer_ms": timing.infer_ms,
        "postprocess_ms": timing.postprocess_ms,
        "total_ms": timing.total_ms,
        "late": timing.late,
    }


def _prediction(prediction: Any, confidence: float) -> dict[str, Any]:
    import numpy as np

    from edgeship.data.regions import to_runs
    from edgeship.decode.predictions import (
        Classification,
        Depth,
        Detection,
        Embedding,
        Instances,
        Poses,
        Rotated,
        Segmentation,
        Several,
        Text,
    )

    if isinstance(prediction, Several):
        return {"tasks": {name: _prediction(item, confidence) for name, item in prediction.parts.items()}}
    if isinstance(prediction, Classification):
        return {"top": [[name, round(score, 6)] for name, score in prediction.top(5)]}
    if isinstance(prediction, Detection):
        kept = prediction.above(confidence)
        rows = zip(kept.names, kept.scores.tolist(), kept.boxes.tolist(), strict=True)
        found = [{"class": name, "score": score, "box": box} for name, score, box in rows]
        if isinstance(kept, Instances):
            size = kept.height, kept.width
            for row, one in zip(found, kept.regions, strict=True):
                row["mask"] = {"size": list(size), "counts": to_runs(one, *size)}
        if isinstance(kept, Poses):
            for row, points in zip(found, kept.points.tolist(), strict=True):
                row["keypoints"] = points
        if isinstance(kept, Rotated):
            for row, corners in zip(found, kept.corners.tolist(), strict=True):
                row["corners"] = corners
        return {"boxes": found}
    if isinstance(prediction, Segmentation):
        values, counts = np.unique(prediction.mask, return_counts=True)
        shares = {
            (prediction.classes[value] if 0 <= value < len(prediction.classes) else str(value)): count
            for value, count in zip(values.tolist(), (counts / prediction.mask.size).tolist(), strict=True)
        }
        return {"shares": shares}
    if isinstance(prediction, Text):
        return {"text": prediction.text}
    if isinstance(prediction, Embedding):
        return {"vector": prediction.vector.tolist()}
    if isinstance(prediction, Depth):
        low, middle, high = (round(float(value), 4) for value in np.nanpercentile(prediction.metres, (0, 50, 100)))
        return {"metres": {"least": low, "median": middle, "most": high}}
    return {"outputs": {name: list(value.shape) for name, value in prediction.outputs.items()}}


def show_frames(frames: Iterable[dict[str, Any]], told: dict[str, Any]) -> Lines:
    """A line for each image, then the parts of the frame against the budget."""
    count = 0
    for frame in frames:
        count += 1
        late = "  LATE" if frame["late"] else ""
        yield f"{frame['image']}  {_words(frame)}  {frame['total_ms']:.2f} ms{late}"
    yield ""
    yield f"{'wall ms':>12}  {'median':>8}  {'p99':>8}"
    for part in PARTS:
        yield f"{part:>12}  {told['p50_ms'][part]:8.3f}  {told['p99_ms'][part]:8.3f}"
    if told["budget_ms"] is not None:
        yield f"budget {told['budget_ms']:g} ms: {told['missed']} of {count} frames missed it"


def _words(frame: dict[str, Any]) -> str:
    if "tasks" in frame:
        words = [f"{name}: {_words(item)}" for name, item in frame["tasks"].items()]
    elif "top" in frame:
        words = [f"{name} {score:.3f}" for name, score in frame["top"][:3]]
    elif "boxes" in frame:
        words = [f"{row['class']} {row['score']:.2f}" for row in frame["boxes"][:8]] or ["no box"]
    elif "text" in frame:
        words = [frame["text"]]
    elif "vector" in frame:
        words = [f"a vector of {len(frame['vector'])}"]
    elif "metres" in frame:
        words = [f"{name} {value:g} m" for name, value in frame["metres"].items()]
    elif "shares" in frame:
        ranked = sorted(frame["shares"].items(), key=lambda item: -item[1])
        words = [f"{name} {share:.1%}" for name, share in ranked[:5]]
    else:
        words = [f"{name} {shape}" for name, shape in frame["outputs"].items()]
    return ", ".join(words)
