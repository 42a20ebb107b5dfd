"""``build``: an ONNX file to an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar
from edgeship.cli.output import JSON_OPTION, emit, native_output_aside
from edgeship.cli.settings import PLUGIN, engine_name
from edgeship.errors import ConfigError, MissingExtra, ModelError, PrecisionError, UserInputError

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.engines import BuildRequest
    from edgeship.results import Audit, Build

ENGINE = typer.Option(
    "tensorrt-rtx", "--engine", "-e", help="onnxruntime | openvino | tensorrt | tensorrt-rtx | onnxruntime-rtx"
)


def shape_ranges(texts: list[str]) -> dict[str, Any]:
    """``name=1x3x224x224:8x3x224x224:16x3x224x224`` (or one shape for all three) → ranges by input."""

    ranges = {}
    for text in texts:
        name, separator, rest = text.partition("=")
        parts = rest.split(":")
        shapes = [tuple(int(size) for size in part.split("x") if size.isdigit()) for part in parts]
        sizes = [len(part.split("x")) for part in parts]
        if not separator or len(parts) not in (1, 3) or [len(shape) for shape in shapes] != sizes:
            raise UserInputError(
                f"--shapes {text!r} is not a range",
                expected="--shapes name=1x3x224x224:8x3x224x224:16x3x224x224 (min:opt:max), or one shape for all",
            )
        low, best, high = shapes * 3 if len(shapes) == 1 else shapes
        ranges[name] = {"min": low, "opt": best, "max": high}
    return ranges


@app.command()
def build(
    model: Path = typer.Argument(help="The ONNX file."),
    engine: str = ENGINE,
    out: Path | None = typer.Option(None, "--out", "-o", help="The engine file to write (default: beside the model)."),
    precision: str = typer.Option("", help="fp32 | fp16 | int8 | implicit … (default: what the ONNX says)."),
    min_batch: int = typer.Option(1, help="Smallest batch of a dynamic first axis."),
    opt_batch: int = typer.Option(1, help="The batch that kernels are tuned for: the one really served."),
    max_batch: int | None = typer.Option(None, help="Largest batch (default: --opt-batch)."),
    shapes: list[str] = typer.Option(
        [], help="name=MIN:OPT:MAX for an input with other dynamic axes. Repeat for more."
    ),
    compute_capability: list[str] = typer.Option([], help="TensorRT-RTX: build ahead of time for 8.6, 8.9 … Repeat."),
    workspace_mib: int = typer.Option(4096, help="Workspace limit in MiB."),
    optimization_level: int | None = typer.Option(None, help="Builder effort, 0 to 5."),
    timing_cache: Path | None = typer.Option(None, help="Timing cache file, kept between builds."),
    cache: Path | None = typer.Option(None, help="Calibration cache (TensorRT 10, --precision implicit)."),
    npz: Path | None = typer.Option(
        None, help="Instead of --cache: frames for TensorRT's own calibrator, one array for each input."
    ),
    calibrator: str = typer.Option("", help="entropy | minmax: the calibrator that --npz feeds (default: entropy)."),
    keep: list[str] = typer.Option([], help="Node name or pattern that stays in high precision. Repeat for more."),
    plugins: list[Path] = PLUGIN,
    dla_core: int | None = typer.Option(None, help="Run on this DLA core."),
    gpu_fallback: bool = typer.Option(False, help="Let layers that DLA cannot run use the GPU."),
    version_compatible: bool = typer.Option(False, help="An engine that newer TensorRT versions load."),
    hardware_compatible: bool = typer.Option(False, help="An engine for Ampere and later GPUs."),
    tf32: bool = typer.Option(False, help="Allow TF32 in FP32 layers."),
    device: str = typer.Option("", help="cpu | cuda:0"),
    via: str = typer.Option("api", help="api | trtexec"),
    dry_run: bool = typer.Option(False, "--dry-run", help="With --via trtexec: print the command and stop."),
    as_json: bool = JSON_OPTION,
) -> None:
    """ONNX to an engine, and what precision its layers really have."""
    from edgeship.config import takes_tensorrt_graphs

    options = {
        "engine": engine_name(engine),
        "device": device or ("cuda:0" if takes_tensorrt_graphs(engine) else "cpu"),
        "batch": {"min": min_batch, "opt": opt_batch, "max": opt_batch if max_batch is None else max_batch},
        "shapes": shape_ranges(shapes),
        "compute_capability": tuple(part for text in compute_capability for part in text.split(",")),
        "workspace_mib": workspace_mib,
        "optimization_level": optimization_level,
        "timing_cache": timing_cache,
        "plugins": tuple(plugins),
        "dla_core": dla_core,
        "gpu_fallback": gpu_fallback,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
        "tf32": tf32,
        "via": via,
    }
    request = _with_frames(_request(model, out, precision, options, (tuple(keep), cache)), npz, calibrator)
    if dry_run:
        _dry_run(request, as_json=as_json)
        return
    given = Given(precision=bool(precision), profile=bool(shapes or max_batch or max(min_batch, opt_batch) > 1))
    _build(request, given, as_json=as_json)


def _request(
    model: Path,
    out: Path | None,
    precision: str,
    options: dict[str, Any],
    extras: tuple[tuple[str, ...], Path | None],
) -> BuildRequest:
    """Check the options all at once and make the request."""
    from pydantic import TypeAdapter, ValidationError

    from edgeship import engines
    from edgeship.config import Precision, Target, is_tensorrt
    from edgeship.config_file import problems_of
    from edgeship.engines import BuildRequest, onnx_file

    keep, cache = extras
    if not model.is_file():
        raise ModelError(f"{model} does not exist", expected="an .onnx file", do="edgeship export")
    try:
        target = Target.model_validate(options)
        asked: Precision = TypeAdapter(Precision).validate_python(precision) if precision else "fp32"
    except ValidationError as error:
        raise ConfigError(problems_of(error, "precision"), where="the options") from None
    if not precision and not is_tensorrt(target.engine):
        asked = onnx_file.declared_precision(model)
    elif not precision and target.via == "api":
        from edgeship.engines.trt.engine import declared_precision

        asked = declared_precision(target.engine, model, target.plugins)
    module = engines.get(target.engine)
    output = out or model.with_suffix(module.SUFFIX)
    if output.resolve() == model.resolve():
        output = model.with_name(f"{model.stem}.built{module.SUFFIX}")
    log = output.with_name(f"{output.name}.log")
    return BuildRequest(model, output, asked, target, keep=keep, cache=cache, log=log)


def _with_frames(request: BuildRequest, npz: Path | None, calibrator: str) -> BuildRequest:
    """The request with frames for TensorRT 10's own calibrator, where ``--npz`` gives some."""
    from typing import get_args

    from edgeship.config import Calibrator
    from edgeship.trial.build import single_frames

    if npz is None and not calibrator:
        return request
    if npz is None or request.cache is not None or request.precision != "implicit":
        raise UserInputError(
            "--npz and --calibrator are for TensorRT 10's own calibrator",
            expected="--precision implicit with --npz, and no --cache",
            do="give the frames with --npz, or only --cache with a cache of edgeship calibrate",
        )
    for name in get_args(Calibrator):
        if name == (calibrator or "entropy"):
            return replace(request, frames=single_frames(npz), calibrator=name)
    raise UserInputError(f"there is no calibrator {calibrator!r}", expected=", ".join(get_args(Calibrator)))


@dataclass(frozen=True)
class Given:
    """What the user named: an engine that misses that precision is a failure; a profile that nobody named is told."""

    precision: bool
    profile: bool


def _build(request: BuildRequest, given: Given, *, as_json: bool) -> None:
    """Build and audit."""
    from edgeship import engines
    from edgeship.config import Gate
    from edgeship.engines.inspect import sidecar
    from edgeship.results import write

    module = engines.get(request.target.engine)
    with progress_bar(quiet=as_json) as progress:
        request = replace(request, progress=progress)
        with native_output_aside():
            done = module.build(request)
            write(done, sidecar(request.output))
            audit, reason = _audit(request, stated=given.precision)
    payload = {
        "build": done.model_dump(mode="json"),
        "audit": audit.model_dump(mode="json") if audit is not None else None,
        "not_audited": reason,
    }

    def lines() -> Lines:
        yield from _built(request.output, done)
        yield from _profile(request, done, given)
        if audit is None:
            yield f"audit     not possible here: {reason}"
            return
        share = "an unknown share" if audit.achieved is None else f"{audit.achieved:.0%}"
        said = f"{share} of the convolutions and matrix products are {audit.asked}"
        yield f"audit     {said} (read from the {audit.source})"
        for layer in audit.missed[:10]:
            yield f"          {layer.operator} {layer.name} is {layer.precision}"
        if len(audit.missed) > 10:
            yield f"          and {len(audit.missed) - 10} more (--json names all)"

    emit(payload, as_json=as_json, lines=lines)
    least = Gate().min_achieved
    if given.precision and audit is not None and audit.achieved is not None and audit.achieved < least:
        raise PrecisionError(
            f"asked for {audit.asked}, and {audit.achieved:.0%} of the convolutions and matrix products have it",
            expected=f"{least:.0%} or more, as the gate's min_achieved has it",
            do=f"edgeship quantize {request.onnx}, then build what it writes",
        )


def _audit(request: BuildRequest, *, stated: bool) -> tuple[Audit | None, str]:
    """The audit of what was built; or None and why: trtexec builds where TensorRT's Python module may be missing."""
    from edgeship import engines
    from edgeship.engines import OpenOptions

    target = request.target
    options = OpenOptions(device=target.device, plugins=target.plugins, tf32=target.tf32)
    try:
        if target.via == "trtexec" and not stated:
            from edgeship.engines.trt.engine import declared_precision

            request = replace(request, precision=declared_precision(target.engine, request.onnx, target.plugins))
        return engines.get(target.engine).audit(request.output, request, options), ""
    except MissingExtra as error:
        if target.via != "trtexec":
            raise
        return None, error.found


def _built(output: Path, done: Build) -> Lines:
    bound = done.identity
    yield f"engine    {output} ({done.engine.size_bytes / 2**20:.1f} MiB, {done.seconds:.1f} s)"
    yield f"by        {bound.engine} {bound.version}, {bound.device}"
    if done.reason:
        yield f"state     built, not run: {done.reason}"
    for note in done.notes:
        yield f"note      {note}"
    if done.command:
        yield f"command   {done.command}"


def _profile(request: BuildRequest, done: Build, given: Given) -> Lines:
    """Which shapes the engine takes: what most surprises of a new engine come from."""
    batch = request.target.batch
    for name, (low, best, high) in done.profiles.items():
        yield f"profile   {name}: takes {list(low)} to {list(high)}, tuned for {list(best)}"
    dynamic = [info.name for info in done.inputs if info.shape and isinstance(info.shape[0], str)]
    if dynamic and not given.profile and request.target.engine != "onnxruntime":
        yield (
            f"profile   the batch of {', '.join(dynamic)} is dynamic and no profile was given: this engine takes a "
            f"batch of {batch.opt} and nothing else; give --opt-batch and --max-batch for more"
        )


def _dry_run(request: BuildRequest, *, as_json: bool) -> None:
    from edgeship.engines.trt import trtexec

    if request.target.via != "trtexec":
        raise UserInputError("--dry-run prints trtexec's command line", do="add --engine tensorrt --via trtexec")
    tool = trtexec.here_or_assumed()
    if tool.flags is not None:
        request = trtexec.with_own_cache(request, tool)
    command = trtexec.shown(trtexec.build_command(request, tool))
    emit({"command": command}, as_json=as_json, lines=lambda: [command])
