"""``init``: a config for a model."""

from __future__ import annotations

from pathlib import Path

import typer

from edgeship.cli.app import app
from edgeship.cli.live import working
from edgeship.cli.output import show
from edgeship.cli.settings import INPUT, WEIGHTS, input_specs
from edgeship.errors import UserInputError

TASK = typer.Option(
    None,
    help="classification | detection | instances | keypoints | rotated | segmentation (default: by the outputs).",
)
IMAGES = typer.Option(None, help="Labelled images; with them init finds the class names and the preprocessing.")


@app.command()
def init(
    source: str | None = typer.Argument(
        None, help="An .onnx or .pt2 file, or module:callable (default: a config to fill in)."
    ),
    images: Path | None = IMAGES,
    labels: Path | None = typer.Option(None, help="Their labels (default: those that lie beside the images)."),
    calib: Path | None = typer.Option(None, help="Frames of the deployment camera, for INT8."),
    task: str | None = TASK,
    inputs: list[str] = INPUT,
    weights: Path | None = WEIGHTS,
    engine: str = typer.Option(
        "onnxruntime", help="onnxruntime | openvino | tensorrt | tensorrt-rtx | onnxruntime-rtx"
    ),
    out: Path = typer.Option(Path("edgeship.toml"), "--out", "-o", help="The file to write."),
    force: bool = typer.Option(False, "--force", help="Replace an existing file."),
) -> None:
    """Write a config for a model: its names, shapes, likely task, class names and preprocessing are found out."""
    if out.exists() and not force:
        raise UserInputError(f"{out} exists already", do="give another name with --out, or --force to replace it")
    from edgeship.files import write_text
    from edgeship.pipeline.starter import Asked, start

    asked = Asked(
        source=source,
        root=out.resolve().parent,
        weights=weights,
        inputs=input_specs(inputs),
        task=task,
        engine=engine,
        images=images,
        labels=labels,
        calibration=calib,
    )
    with working("looking at the model and the images"):
        made = start(asked)
    write_text(out, made.text)
    show(f"wrote {out}", *(f"  found: {line}" for line in made.found), *(f"  to do: {line}" for line in made.open))
    show(f"then: edgeship check {out}")
