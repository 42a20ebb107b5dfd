"""``calibrate`` and ``quantize``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar, working
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import FROM_CONFIG, IMAGES, NPZ, PREPROCESS, FramesAsked, given_frames

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.data.frames import Frames
    from edgeship.prepare.calibration_cache import CalibrationCache
    from edgeship.results import Calibrated, Quantized

MODEL = typer.Argument(help="The FP32 ONNX file.")
COUNT = typer.Option(512, help="How many frames to take, spread evenly over the sorted names.")
BATCH = typer.Option(8, help="Frames in a batch.")


def _preprocess_facts(frames: Frames) -> dict[str, Any]:
    """What a cache is bound to of the preprocessing; empty when the frames came ready."""
    from edgeship.data.beside import portable

    settings = frames.preprocess if not frames.feeds else None
    return portable(settings).model_dump(mode="json") if settings is not None else {}


@app.command()
def calibrate(
    model: Path = MODEL,
    images: Path | None = IMAGES,
    npz: Path | None = NPZ,
    preprocess: list[str] = PREPROCESS,
    config: Path | None = FROM_CONFIG,
    method: str = typer.Option("auto", help="auto | entropy | minmax | percentile | mse"),
    percentile: float = typer.Option(99.99, help="Share of the magnitudes, in percent, that percentile keeps."),
    count: int = COUNT,
    batch: int = BATCH,
    evaluation: Path | None = typer.Option(None, help="Evaluation images: counts clipping and shared frames on them."),
    engine: str = typer.Option(
        "onnxruntime", "--for", help="tensorrt | onnxruntime: whose graphs method auto compares the methods by."
    ),
    device: str = typer.Option("cpu", help="cpu or cuda:0."),
    out: Path = typer.Option(Path("calib.cache"), "--out", "-o", help="The cache; its binding stands beside it."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Measure INT8 ranges on real frames, once for every engine."""
    from edgeship.data.frames import FrameChoice, not_comparable
    from edgeship.data.frames import frames as choose
    from edgeship.prepare.calibrate import CalibrateOptions, method_named
    from edgeship.prepare.calibrate import calibrate as run
    from edgeship.prepare.quantize import style_named

    chosen = given_frames(model, FramesAsked(images, npz, preprocess, config), count, batch)
    options = CalibrateOptions(
        method=method_named(method),
        style=style_named(engine),
        percentile=percentile,
        preprocess=_preprocess_facts(chosen),
        frame_hashes=dict(zip(chosen.ids, chosen.hashes, strict=True)),
        device=device,
    )
    if evaluation is not None:
        rows, group, opened = chosen.options.batch, chosen.group, chosen.opened
        choice = FrameChoice(256, rows, which="evaluation", group=group, opened=opened)
        some, whole = (
            choose(evaluation, chosen.preprocess, chosen.inputs, each) for each in (choice, replace(choice, count=None))
        )
        options = replace(
            options,
            evaluation=some,
            evaluation_hashes=frozenset(whole.hashes),
            unchecked=not_comparable(chosen, whole),
        )
    with progress_bar(quiet=as_json) as progress:
        result = run(model, chosen, out, options, progress)
    emit(result, as_json=as_json, lines=lambda: _print_calibrated(result, out))


def _print_calibrated(result: Calibrated, out: Path) -> Lines:
    yield f"wrote {out}: {result.tensors} tensors from {result.frames} frames, method {result.method}"
    where = "on held-out frames" if result.held_out else "on the calibration frames"
    for score in result.methods:
        agreement = "" if score.agreement is None else f", agreement {score.agreement:.3f}"
        mark = " ← chosen" if score.method == result.method else ""
        yield f"  {score.method:<10} {score.snr_db:6.1f} dB {where}{agreement}{mark}"
    for place in result.placements:
        timed = "" if place.ms is None else f", {place.ms:.3f} ms here"
        mark = " ← chosen" if place.placement == result.placement else ""
        yield f"  Q/DQ {place.placement:<14} {place.snr_db:6.1f} dB, {place.products} products in INT8{timed}{mark}"
    if result.moved_p95 is not None:
        yield (
            f"  over the last quarter of the frames 95 % of the thresholds moved by less than {result.moved_p95:.1%}"
        )
    for sentence in (result.advice, *result.unchecked):
        if sentence:
            yield f"  {sentence}"


SATURATES = (
    "this processor has no VNNI: onnxruntime's own kernels would saturate here. The figures above are of exact "
    "arithmetic, which edgeship's engine and runtime set too; elsewhere set session.x64quantprecision = 1, or "
    "quantize with --reduced-range"
)


@app.command()
def quantize(
    model: Path = MODEL,
    cache: Path | None = typer.Option(None, help="The cache that edgeship calibrate wrote, or a TensorRT cache."),
    engine: str = typer.Option("onnxruntime", "--for", help="tensorrt | onnxruntime"),
    precision: str = typer.Option("int8", help="int8 | int8-fp16 | int8-fp32 | fp16 | fp8"),
    keep: list[str] = typer.Option(
        [], help="A node name, a shell pattern, or op:Kind, left in high precision; repeat."
    ),
    placement: str = typer.Option(
        "auto", help="auto | default | products | residual-float: which operators get Q/DQ; auto: as calibrate chose."
    ),
    allow_noise: list[str] = typer.Option(
        [], "--allow-noise", help="An output that may fall below 10 dB against FP32; repeat."
    ),
    reduced_range: bool = typer.Option(
        False, "--reduced-range", help="onnxruntime: weights of 7 bits, which saturate on no processor."
    ),
    rows: int = typer.Option(
        8, "--batch", help="The target's usual batch: TensorRT gains by INT8 on products from it."
    ),
    trust_cache: bool = typer.Option(False, "--trust-cache", help="Accept a plain TensorRT cache without a binding."),
    images: Path | None = IMAGES,
    npz: Path | None = NPZ,
    preprocess: list[str] = PREPROCESS,
    config: Path | None = FROM_CONFIG,
    out: Path = typer.Option(Path("quantized.onnx"), "--out", "-o", help="The ONNX file to write."),
    as_json: bool = JSON_OPTION,
) -> None:
    """An INT8, FP8 or FP16 graph, run on real frames and compared with the reference."""
    from edgeship.prepare.quantize import QuantizeOptions, placement_named, precision_named, style_named
    from edgeship.prepare.quantize import quantize as run

    style, asked = style_named(engine), precision_named(precision)
    calibration, frames = _ranges_and_frames(
        model, cache, FramesAsked(images, npz, preprocess, config), trust=trust_cache
    )
    with working("quantizing", quiet=as_json):
        options = QuantizeOptions(
            style,
            asked,
            tuple(keep),
            placement=placement_named(placement),
            rows=rows,
            allow_noise=tuple(allow_noise),
            reduced_range=reduced_range,
        )
        result = run(model, calibration, out, frames, options)

    emit(result, as_json=as_json, lines=lambda: _print_quantized(result, out, reduced_range))


def _ranges_and_frames(
    model: Path, cache: Path | None, asked: FramesAsked, *, trust: bool
) -> tuple[CalibrationCache | None, Any]:
    """The cache, if one is named, and the frames to compare on: those given, else the samples that the cache keeps."""
    from edgeship.prepare import calibration_cache as caches
    from edgeship.prepare.graph import load_onnx

    given = given_frames(model, asked, 8, 1) if asked.any else None
    if cache is None:
        return None, given or given_frames(model, asked, 8, 1)
    expected = caches.Expected(
        graph_sha256=caches.graph_hash(load_onnx(model)),
        preprocess=(_preprocess_facts(given) or None) if given is not None else None,
    )
    calibration = caches.load(cache, expected, trust=trust)
    kept = given if given is not None else caches.samples(calibration)
    return calibration, kept or given_frames(model, asked, 8, 1)


def _print_quantized(result: Quantized, out: Path, reduced_range: bool) -> Lines:
    from edgeship.engines import processor
    from edgeship.prepare.compare import worst

    yield f"wrote {out}: {result.precision} for {result.style}, {result.quantized_nodes} quantized nodes"
    if result.noisy:
        yield f"  NOT AS FP32, allowed by name: {', '.join(result.noisy)}"
    for name, value in result.output_snr_db.items():
        yield f"  output {name}: {value:.1f} dB signal-to-noise against FP32"
    for layer in worst(result.noise, 5):
        yield f"  {layer.snr_db:6.1f} dB  {layer.operator} {layer.node}"
    if result.kept:
        yield f"  kept in high precision: {', '.join(result.kept)}"
    if result.in_float:
        yield f"  {len(result.in_float)} of {result.products} products stay in float:"
        for name, why in result.in_float.items():
            yield f"    {name}: {why}"
    for note in result.notes:
        yield f"  {note}"
    if result.style == "onnxruntime" and not reduced_range and processor.saturates():
        yield f"  {SATURATES}"
    if result.left:
        yield f"  left in FP32 by AutoCast: {', '.join(result.left)}"
