"""``init``: a config for a model."""

from __future__ import annotations

from pathlib import Path

import typer

from edgeship.cli.app import app
from edgeship.cli.output import show
from edgeship.errors import UserInputError


@app.command()
def init(
    source: str = typer.Option("model:build", help="Where the model comes from."),
    task: str = typer.Option("classification", help="classification | detection | segmentation"),
    engine: str = typer.Option("onnxruntime", help="onnxruntime | tensorrt | tensorrt-rtx"),
    out: Path = typer.Option(Path("edgeship.toml"), "--out", "-o", help="The file to write."),
    force: bool = typer.Option(False, "--force", help="Replace an existing file."),
) -> None:
    """Write a starter edgeship.toml."""
    from edgeship.files import write_text

    if out.exists() and not force:
        raise UserInputError(f"{out} exists already", do="give another name with --out, or --force to replace it")
    write_text(out, starter(source, task, engine))
    show(f"wrote {out}; put in your own paths, shapes and limits, then: edgeship ship {out}")


LABELS = {
    "classification": 'images = "val/"                    # one folder per class, named like the class',
    "detection": 'images = "val/"\nlabels = "val/annotations.json"    # COCO JSON\n'
    'decoder = "yolox"                  # yolox | ultralytics | detr | nms | module:callable',
    "segmentation": 'images = "val/images/"\nlabels = "val/masks/"              # masks with the images\' names',
}
METRIC = {"classification": "top1", "detection": "map", "segmentation": "miou"}
FIT = {"classification": "center-crop", "detection": "letterbox", "segmentation": "stretch"}


def starter(source: str, task: str, engine: str) -> str:
    """The text of a config for a model, with places to fill in.

    Raises:
        UserInputError: An unknown task or engine.
    """
    from edgeship.engines import ENGINES

    if task not in METRIC:
        raise UserInputError(f"unknown task {task!r}", expected=f"one of {', '.join(METRIC)}")
    if engine not in ENGINES:
        raise UserInputError(f"unknown engine {engine!r}", expected=f"one of {', '.join(ENGINES)}")
    device = "cpu" if engine == "onnxruntime" else "cuda:0"
    precisions = '["fp32", "int8"]' if engine == "onnxruntime" else '["fp32", "fp16", "int8"]'
    return f"""# edgeship: from a PyTorch model to an engine that may ship.

[model]
source  = "{source}"               # module:callable that returns an nn.Module, or a path to .onnx or .pt2
# weights = "weights.safetensors"

[model.inputs.images]               # one table for each input of forward()
shape = ["batch", 3, 224, 224]      # a name makes the axis dynamic; a number fixes it
dtype = "float32"

[preprocess]                        # written once: calibration, evaluation and the vehicle use the same
fit   = "{FIT[task]}"               # center-crop | letterbox | stretch
color = "rgb"
mean  = [123.675, 116.28, 103.53]   # in grey levels, 0..255
std   = [58.395, 57.12, 57.375]

[calibration]
images = "calib/"                   # a few hundred frames from the deployment camera
count  = 512
method = "auto"                     # auto | entropy | minmax | percentile | mse

[evaluation]
task   = "{task}"
{LABELS[task]}

[target]
engine = "{engine}"
device = "{device}"
batch  = {{ min = 1, opt = 1, max = 8 }}   # opt: your real serving batch

[candidates]
precisions = {precisions}
search = false                      # true: look for the fastest mixed-precision engine that passes

[gate]
latency_p99_ms = 33.0
max_drop   = {{ {METRIC[task]} = 0.01 }}
# critical = {{ pedestrian = 0.01 }}  # classes with a rule of their own
confidence = 0.95
"""
