"""``export``, ``slim`` and ``parity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.live import working
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import (
    FROM_CONFIG,
    IMAGES,
    INPUT,
    NPZ,
    PREPROCESS,
    WEIGHTS,
    FramesAsked,
    checked,
    given_frames,
    input_specs,
)

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.config import Model
    from edgeship.results import Exported, Slimmed

SOURCE = typer.Argument(help="module:callable that returns an nn.Module, or a path to .pt2 or .onnx.")
PARITY_FRAMES = 4
"""Real frames that ``parity`` compares on, where the graph's batch axis is dynamic."""


def _model_settings(source: str, inputs: list[str], weights: Path | None, opset: int = 18) -> Model:
    from edgeship.config import Model

    specs = input_specs(inputs)
    return checked(Model, {"source": source, "inputs": specs, "weights": weights, "opset": opset}, "the options")


@app.command()
def export(
    source: str = SOURCE,
    inputs: list[str] = INPUT,
    out: Path = typer.Option(Path("model.onnx"), "--out", "-o", help="The ONNX file to write."),
    weights: Path | None = WEIGHTS,
    opset: int = typer.Option(18, help="ONNX operator set, 18 or later."),
    as_json: bool = JSON_OPTION,
) -> None:
    """PyTorch to ONNX, with the real tensor names read back."""
    from edgeship.prepare.export import export as run

    settings = _model_settings(source, inputs, weights, opset)
    with working("exporting", quiet=as_json):
        result = run(settings, Path.cwd(), out)

    def lines() -> Lines:
        yield f"wrote {out}: {result.nodes} nodes, opset {result.opset}, {result.parameters:,} parameters"
        yield from _tensors(result)
        for ours, theirs in result.renamed.items():
            yield f"  note: the exporter renamed {ours} to {theirs}; use {theirs} downstream"
        yield from (f"  note: {note}" for note in result.notes)

    emit(result, as_json=as_json, lines=lines)


def _tensors(result: Exported | Slimmed) -> Lines:
    for label, tensors in (("input ", result.inputs), ("output", result.outputs)):
        for info in tensors:
            yield f"  {label} {info.name}: {info.dtype} [{', '.join(map(str, info.shape))}]"


@app.command()
def slim(
    model: Path = typer.Argument(help="The ONNX file."),
    out: Path = typer.Option(Path("slim.onnx"), "--out", "-o", help="The file to write."),
    npz: Path | None = typer.Option(
        None, help="Real inputs to compare on, one array for each input; default: seeded noise."
    ),
    free_batch: bool = typer.Option(
        False,
        "--free-batch",
        help="Let Reshapes that hold one batch keep the one they are given, checked by row.",
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Simplify an ONNX graph with onnxslim, checked before and after. Graphs below opset 18 are converted to it."""
    from edgeship.data.npz import open_npz
    from edgeship.prepare.inputs import Known
    from edgeship.prepare.slim import Options
    from edgeship.prepare.slim import slim as run

    known = Known(feeds=open_npz(npz) if npz is not None else None)
    with working("simplifying", quiet=as_json):
        result = run(model, out, Options(known, free_batch))

    def lines() -> Lines:
        same = "unchanged" if result.max_difference is None else f"answers equal within {result.max_difference:.1e}"
        yield f"wrote {out}: {result.nodes_before} → {result.nodes_after} nodes, {same}"
        yield from _tensors(result)
        yield from (f"  note: {note}" for note in result.notes)

    emit(result, as_json=as_json, lines=lines)


def _real_feeds(onnx: Path, asked: FramesAsked) -> list[dict[str, Any]]:
    """A batch of real frames for the graph; none when none were named."""
    from edgeship.data.feeds import batch_of, fixed_batch
    from edgeship.prepare.graph import inputs_of, load_onnx

    if not asked.any:
        return []
    inputs = inputs_of(load_onnx(onnx))
    size = fixed_batch(inputs) or PARITY_FRAMES
    return [batch_of(feeds, inputs, size) for _, feeds in given_frames(onnx, asked, size, size)]


@app.command()
def parity(
    source: str = SOURCE,
    onnx: Path = typer.Option(..., "--onnx", help="The ONNX file to compare with."),
    inputs: list[str] = INPUT,
    weights: Path | None = WEIGHTS,
    rtol: float = typer.Option(1e-3, help="Relative tolerance."),
    atol: float = typer.Option(1e-3, help="Absolute tolerance."),
    seeds: int = typer.Option(3, help="How many seeded random inputs."),
    images: Path | None = IMAGES,
    npz: Path | None = NPZ,
    preprocess: list[str] = PREPROCESS,
    config: Path | None = FROM_CONFIG,
    device: str = typer.Option("cpu", help="cpu or cuda:0; TF32 is off on both sides."),
    as_json: bool = JSON_OPTION,
) -> None:
    """PyTorch against ONNX, on seeded inputs and on real frames; names the first operator that diverges."""
    from edgeship.config import Parity
    from edgeship.config_file import load
    from edgeship.pipeline.prepare import known_inputs
    from edgeship.prepare.inputs import NOTHING
    from edgeship.prepare.parity import Request, require
    from edgeship.prepare.parity import parity as run

    settings = _model_settings(source, inputs, weights)
    values = {"rtol": rtol, "atol": atol, "seeds": seeds, "images": 0, "device": device}
    tolerances = checked(Parity, values, "the options")
    exported = Path(source) if source.endswith(".onnx") else onnx
    with working("comparing", quiet=as_json):
        real = _real_feeds(onnx, FramesAsked(images, npz, preprocess, config))
        known = known_inputs(load(config)) if config is not None else NOTHING
        result = run(Request(settings, Path.cwd(), exported, onnx, tolerances, real, known))
    if not as_json:
        require(result)

    def lines() -> Lines:
        real = f" and {result.real_images} real frames" if result.real_images else ""
        yield f"parity OK on {result.random_inputs} seeded inputs{real} (rtol {rtol:g}, atol {atol:g})"
        for item in result.outputs:
            yield f"  {item.name}: max {item.max_abs:.3g}, mean {item.mean_abs:.3g}"

    emit(result, as_json=as_json, lines=lines)
    if not result.passed:
        raise typer.Exit(4)
