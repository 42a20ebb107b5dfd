"""Parse, configure and build a plan: one path for TensorRT 10, TensorRT 11 and TensorRT-RTX."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.config import Target
from edgeship.engines import BuildRequest, cuda
from edgeship.engines import cuda as host
from edgeship.engines.trt import audit as trt_audit
from edgeship.engines.trt import implicit as trt_implicit
from edgeship.engines.trt import timing_cache
from edgeship.engines.trt.flavour import Flavour, Log, build_error, identity, quiet, refuse_fp8, supported_capabilities
from edgeship.engines.trt.network import Parsed, parse
from edgeship.engines.trt.profiles import apply_profiles, plan_profiles
from edgeship.errors import BuildError, DeviceError, PrecisionError, UserInputError
from edgeship.files import peak_resident_mib, write_bytes
from edgeship.progress import Progress
from edgeship.results import Artifact, Build, Identity

if TYPE_CHECKING:
    import tensorrt as trt

NOT_RUN = "no GPU here"
"""``Build.reason`` of an engine that was built and audited, and cannot run where it was built."""


def build(flavour: Flavour, request: BuildRequest) -> Build:
    """Build ``request.output``.

    Raises:
        ConfigError: A dynamic axis has no range, or an option does not exist on this flavour.
        CacheError: The timing or calibration cache belongs to something else.
        PrecisionError: The asked-for precision is not in the ONNX, and this flavour takes it from nowhere else.
        BuildError: TensorRT refused; its reason and a remedy are in the message.
        DeviceError: This build needs a GPU and there is none.
    """
    log = Log(request.log)
    try:
        with quiet():
            return _build(flavour, request, log)
    finally:
        log.save()


def _build(flavour: Flavour, request: BuildRequest, log: Log) -> Build:
    start = time.perf_counter()
    target = request.target
    implicit = request.precision == "implicit"
    _refuse_options(flavour, target)
    if implicit:
        trt_implicit.refuse_unless_possible(flavour, request)
    if not flavour.rtx:
        _use_gpu(flavour, target.device)
    bound = _bound(flavour, target)
    if request.precision == "fp8":
        refuse_fp8(flavour.title, target)
    parsed = parse(flavour, request.onnx, log, plugins=target.plugins, strongly_typed=not implicit)
    if not implicit:
        _refuse_untyped(flavour, parsed, request)
    profiles = plan_profiles(parsed.inputs, target, parsed.shape_inputs)
    config = parsed.builder.create_builder_config()
    profile = apply_profiles(parsed.builder, config, profiles, parsed.shape_inputs)
    _configure(flavour, parsed, config, target)
    cache_path = None if flavour.rtx else target.timing_cache or timing_cache.default_path(bound)
    hit = timing_cache.attach(flavour, config, cache_path, bound, log) if cache_path is not None else None
    stop = threading.Event()
    config.progress_monitor = progress_monitor(flavour.trt, request.progress, stop)
    with ExitStack() as stack:
        calibration = None
        if implicit:
            calibration = stack.enter_context(trt_implicit.calibration(flavour, parsed, profiles, request))
            trt_implicit.configure(flavour.trt, config, profile, calibration)
            trt_implicit.constrain(flavour.trt, parsed.network, config, request.keep)
        plan = parsed.builder.build_serialized_network(parsed.network, config)
        if calibration is not None:
            calibration.finish()
    if stop.is_set():
        raise KeyboardInterrupt
    if plan is None:
        raise build_error(f"{flavour.title} could not build {request.onnx.name}", log)
    write_bytes(request.output, bytes(plan))
    if calibration is not None and calibration.written is not None and request.cache is None:
        write_bytes(trt_implicit.written_beside(request.output), calibration.written)
    if cache_path is not None:
        timing_cache.keep(config, cache_path, bound)
    log.save()
    return _result(
        flavour, request, parsed, profiles, Finished(bound, time.perf_counter() - start, cache_path, hit, log)
    )


def _use_gpu(flavour: Flavour, device: str) -> None:
    """Make the GPU current that will run the engine: TensorRT builds for the current one. Raises DeviceError."""
    here = host.cuda()
    if not here.gpus:
        raise DeviceError(
            f"{flavour.title} builds on the GPU that will run the engine, and there is none: {here.reason}",
            do='run the trial on the target (host = "user@name"), or engine = "tensorrt-rtx" with compute_capability',
        )
    cuda.use(device)


def _bound(flavour: Flavour, target: Target) -> Identity:
    """What the engine is bound to, and what it was made compatible with."""
    flags = {"version_compatible": target.version_compatible, "hardware_compatible": target.hardware_compatible}
    return identity(flavour, target.device, target.compute_capability).model_copy(update=flags)


class Finished:
    """What a finished build knows besides its network."""

    def __init__(self, bound: Identity, seconds: float, cache: Path | None, hit: bool | None, log: Log) -> None:
        self.bound, self.seconds, self.cache, self.hit, self.log = bound, seconds, cache, hit, log


def _result(flavour: Flavour, request: BuildRequest, parsed: Parsed, profiles: dict[str, Any], done: Finished) -> Build:
    folder = request.output.parent
    target = request.target
    reason = _why_not_runnable(flavour, target)
    notes = list(done.log.warnings()[:5])
    if target.version_compatible:
        notes.append("version-compatible: the plan carries a lean runtime, host code that edgeship never runs")
    if flavour.rtx and target.timing_cache is not None:
        notes.append("timing_cache is not used: TensorRT-RTX compiles for the GPU when the engine is opened")
    if flavour.rtx and not target.compute_capability:
        notes.append("compute_capability is not set: built for the GPUs that TensorRT-RTX supports by default")
    return Build(
        engine=Artifact.of(request.output, folder),
        identity=done.bound,
        seconds=done.seconds,
        inputs=parsed.inputs,
        outputs=parsed.outputs,
        profiles=profiles,
        log=_below(request.log, folder),
        timing_cache=_below(done.cache, folder),
        timing_cache_hit=done.hit,
        peak_memory_mib=peak_resident_mib(),
        runnable=not reason,
        reason=reason,
        notes=tuple(notes),
    )


def _below(path: Path | None, folder: Path) -> Artifact | None:
    if path is None or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None
    return Artifact.of(path.resolve(), folder.resolve())


def _why_not_runnable(flavour: Flavour, target: Target) -> str:
    here = host.cuda()
    if not here.gpus:
        return NOT_RUN
    index = host.device_index(target.device)
    gpu = next((gpu for gpu in here.gpus if gpu.index == index), None)
    if gpu is None:
        return f"there is no device {target.device}"
    if target.compute_capability and gpu.compute_capability not in target.compute_capability:
        wanted = ", ".join(target.compute_capability)
        return f"built for compute capability {wanted}, and {gpu.name} has {gpu.compute_capability}"
    if flavour.rtx and gpu.compute_capability not in supported_capabilities(flavour):
        return f"TensorRT-RTX does not support {gpu.name} ({gpu.compute_capability})"
    return ""


def _refuse_options(flavour: Flavour, target: Target) -> None:
    """Refuse what this flavour would silently leave out.

    Raises:
        UserInputError: An option that does not exist here.
    """
    if not flavour.rtx:
        if target.compute_capability:
            raise UserInputError(
                f"{flavour.title} builds for the GPU it runs on; compute_capability is TensorRT-RTX's",
                do='build on the target, or set engine = "tensorrt-rtx"',
            )
        return
    asked = {"dla_core": target.dla_core is not None, "hardware_compatible": target.hardware_compatible,
             "version_compatible": target.version_compatible}  # fmt: skip
    wrong = [name for name, given in asked.items() if given]
    if wrong:
        raise UserInputError(
            f"TensorRT-RTX has no {', '.join(wrong)}",
            expected='compute_capability = ["8.6", "8.9"] names the GPUs an engine is for',
            do=f'remove {", ".join(wrong)} from [target], or set engine = "tensorrt"',
        )


def _refuse_untyped(flavour: Flavour, parsed: Parsed, request: BuildRequest) -> None:
    """Refuse a strongly typed network in which nothing has the asked-for precision.

    Raises:
        PrecisionError: Asked for FP16 or INT8, and the ONNX is FP32.
    """
    layers = trt_audit.read_network(parsed.network)
    audit = trt_audit.summarize(layers, request.precision, request.keep, "network")
    judged = sum(sum(audit.layers.get(kind, {}).values()) for kind in trt_audit.HEAVY.values()) - len(audit.kept)
    if judged > 0 and len(audit.missed) >= judged:
        got = audit.missed[0].precision
        wanted = "int8" if request.precision.startswith("int8") else request.precision
        raise PrecisionError(
            f"asked for {request.precision}, and every convolution and matrix product of {request.onnx.name} is {got}: "
            f"{flavour.title} computes in the types that the ONNX names",
            expected=f"an ONNX converted to {request.precision}",
            do=f"edgeship quantize {request.onnx} --precision {wanted}, then build what it writes; "
            f"or build this one as it is with --precision {trt_audit.declared(layers)}",
        )


def _configure(flavour: Flavour, parsed: Parsed, config: trt.IBuilderConfig, target: Target) -> None:
    trt = flavour.trt
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.optimization_level is not None:
        config.builder_optimization_level = target.optimization_level
    if target.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if target.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.plugins_to_serialize = [str(path) for path in target.plugins]
    if target.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if target.dla_core is not None:
        _use_dla(flavour, parsed, config, target, target.dla_core)
    if flavour.rtx and target.compute_capability:
        set_capabilities(trt, config, target.compute_capability)


def _use_dla(flavour: Flavour, parsed: Parsed, config: trt.IBuilderConfig, target: Target, core: int) -> None:
    trt = flavour.trt
    cores = parsed.builder.num_DLA_cores
    if core >= cores:
        raise DeviceError(
            f"dla_core = {core}, and {flavour.title} finds {cores} DLA cores here",
            expected="a Jetson with DLA, and TensorRT up to 10.7 or from 11.4.1 on (those between have none)",
            do="remove dla_core from [target]",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if target.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def set_capabilities(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """TensorRT-RTX: the compute capabilities to build for.

    Raises:
        UserInputError: One that this TensorRT-RTX does not know, or one named twice.
    """
    known = {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    asked = [f"SM{text.replace('.', '')}" for text in capabilities]
    wrong = [text for text, name in zip(capabilities, asked, strict=True) if name not in known]
    if wrong or len(set(asked)) != len(asked):
        readable = ", ".join(sorted((f"{name[2:-1]}.{name[-1]}" for name in known), key=float))
        problem = f"it does not know {', '.join(wrong)}" if wrong else "one is named twice"
        raise UserInputError(f"compute_capability = {list(capabilities)}: {problem}", expected=f"of {readable}")
    config.num_compute_capabilities = len(asked)
    for index, name in enumerate(asked):
        if not config.set_compute_capability(trt.ComputeCapability.__members__[name], index):
            raise BuildError(f"TensorRT-RTX refused to build for compute capability {capabilities[index]}")


def progress_monitor(trt: Any, progress: Progress, stop: threading.Event) -> trt.IProgressMonitor:
    """A vendor progress monitor that reports the outermost phase under way.

    Ctrl-C sets ``stop``, which ends the build at its next step.
    """

    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self.totals[phase_name] = num_steps
            self._say(0, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._say(step + 1, phase_name)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            total = self.totals.pop(phase_name, None)
            if total is not None and not self.totals:
                progress(total, total, "building")

        def _say(self, done: int, phase: str) -> None:
            outer = next(iter(self.totals), phase)
            if phase == outer:
                try:
                    progress(done, self.totals.get(phase), "building")
                except KeyboardInterrupt:
                    stop.set()

    return _Monitor()
