"""The checks of ``edgeship selftest``: each builds, runs or refuses something real, and compares with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import CPU_ENGINES, Batch, EngineName, Precision, Target
from edgeship.engines import BuildRequest, Engine, OpenOptions
from edgeship.errors import EdgeshipError, PrecisionError
from edgeship.results import Audit, Build
from edgeship.selftest import networks
from edgeship.trial.conditions import for_device
from edgeship.trial.consistency import Asked, audit_consistency

BATCH = Batch(min=1, opt=2, max=4)
LEAST_DB: dict[Precision, float] = {"fp32": 60.0, "fp16": 40.0, "bf16": 30.0, "int8": 25.0}


class Failed(Exception):
    """What a check found against the assumption."""


class NotHere(Exception):
    """Why a check says nothing on this device."""


@dataclass
class Bench:
    """An engine on a device, and what was built so far. ``runs``: whether a device is here to run engines on."""

    name: EngineName
    engine: Engine
    device: str
    folder: Path
    runs: bool
    made: dict[str, tuple[BuildRequest, Build]] = field(default_factory=dict)

    @property
    def options(self) -> OpenOptions:
        """How engines are opened."""
        return OpenOptions(device=self.device, max_batch=BATCH.max)

    def target(self, **changes: Any) -> Target:
        """The target that is built for; without a GPU TensorRT-RTX builds ahead of time."""
        if self.name == "tensorrt-rtx" and not self.runs:
            changes = {"compute_capability": ("8.9",), **changes}
        return Target(engine=self.name, device=self.device, batch=BATCH, **changes)

    def build(self, precision: Precision, key: str = "", **changes: Any) -> tuple[BuildRequest, Build]:
        """Build the network once for each key."""
        key = key or precision
        if key not in self.made:
            style = "" if precision != "int8" else "onnxruntime" if self.name in CPU_ENGINES else "tensorrt"
            model = networks.write(self.folder / f"{key}.onnx", style)
            output = self.folder / f"{key}.built{self.engine.SUFFIX}"
            asked: Precision = "int8-fp32" if style == "onnxruntime" else precision
            request = BuildRequest(model, output, asked, self.target(**changes))
            self.made[key] = (request, self.engine.build(request))
        return self.made[key]

    def open(self, precision: Precision = "fp32", key: str = "", **options: Any) -> Any:
        """Open what :meth:`build` built. Raises NotHere where nothing runs."""
        request, _ = self.build(precision, key)
        if not self.runs:
            raise NotHere("no device to run on")
        return self.engine.open(request.output, replace(self.options, **options))

    def device_name(self) -> str:
        """The device's own name."""
        try:
            return self.engine.identity(self.device).device
        except EdgeshipError:
            return "none"


@dataclass(frozen=True)
class Check:
    """One assumption. ``distrust``: what not to rely on where it fails."""

    name: str
    run: Callable[[Bench], str]
    distrust: str


def _db(wanted: Any, found: Any) -> float:
    noise = float(np.sum((np.asarray(wanted, np.float64) - np.asarray(found, np.float64)) ** 2))
    return 200.0 if noise == 0 else float(10 * np.log10(np.sum(np.asarray(wanted, np.float64) ** 2) / noise))


def _require(condition: bool, said: str) -> None:
    if not condition:
        raise Failed(said)


def _optional(precision: Precision, error: PrecisionError) -> Exception:
    """FP16 is not everywhere; where FP32 or INT8 is refused, something is wrong."""
    return NotHere(error.found) if precision == "fp16" else error


def _available(bench: Bench) -> str:
    probe = bench.engine.probe()
    _require(probe.available or bool(probe.version), probe.reason)
    return f"{probe.engine} {probe.version} with {', '.join(probe.devices) or 'no device'}"


def _built(precision: Precision) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        if bench.name == "tensorrt-rtx" and precision == "fp16":
            raise NotHere("TensorRT-RTX computes in the types of the graph, and this one is FP32")
        try:
            _, built = bench.build(precision)
        except PrecisionError as error:
            raise _optional(precision, error) from None
        return f"built in {built.seconds:.2f} s"

    return run


def _right(precision: Precision) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        images = networks.frames(2)
        try:
            runner = bench.open(precision)
        except PrecisionError as error:
            raise _optional(precision, error) from None
        with runner:
            found = _db(networks.answers(images), runner.infer({"images": images})["scores"])
        _require(found >= LEAST_DB[precision], f"{found:.1f} dB against numpy, at least {LEAST_DB[precision]:g}")
        return f"{found:.1f} dB against numpy in double precision"

    return run


def _audited(precision: Precision) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        try:
            request, _ = bench.build(precision)
        except PrecisionError as error:
            raise _optional(precision, error) from None
        audit: Audit = bench.engine.audit(request.output, request, bench.options)
        _require(audit.achieved is not None, f"the report names no product: {'; '.join(audit.notes)}")
        return f"{audit.achieved:.0%} of the arithmetic in {audit.asked}, read from the {audit.source}"

    return run


def _batches(bench: Bench) -> str:
    images = networks.frames(BATCH.max)
    with bench.open() as runner:
        whole = runner.infer({"images": images})["scores"]
        alone = np.concatenate(
            [runner.infer({"images": images[row : row + 1]})["scores"] for row in range(len(images))]
        )
    found = _db(alone, whole)
    _require(found >= 60, f"a batch of {BATCH.max} and its rows alone agree to {found:.1f} dB")
    return f"{found:.1f} dB between a batch of {BATCH.max} and its rows"


def _consistent(bench: Bench) -> str:
    with bench.open() as runner:
        found = audit_consistency(runner, {"images": networks.frames(8)}, Asked("fp32", BATCH, BATCH.opt))
    broken = [check.what for check in found.checks if not check.passed]
    _require(not broken, f"differs: {', '.join(broken)}")
    return f"{len(found.checks)} comparisons agree"


def _refused(what: str, act: Callable[[Bench], object]) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        try:
            act(bench)
        except EdgeshipError as error:
            return f"refused: {error.found}"
        raise Failed(f"{what} was accepted")

    return run


def _wrong_shape(bench: Bench) -> None:
    with bench.open() as runner:
        runner.infer({"images": np.zeros((2, networks.CHANNELS, networks.SIZE + 1, networks.SIZE), np.float32)})


def _foreign(bench: Bench) -> None:
    bench.open().close()
    path = bench.folder / f"foreign{bench.engine.SUFFIX}"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    bench.engine.open(path, bench.options).close()


def _changed(bench: Bench) -> None:
    bench.open(sha256="0" * 64).close()


def _timer(bench: Bench) -> str:
    images = networks.frames(2)
    with bench.open() as runner:
        timer = runner.timer({"images": images})
        taken = sorted(timer().wall_ms for _ in range(50))
        found = _db(runner.infer({"images": images})["scores"], timer.outputs()["scores"])
    _require(found >= 60, f"the timed outputs differ: {found:.1f} dB")
    return f"median {taken[25]:.3g} ms wall time, the outputs of infer"


def _cuda_graph(bench: Bench) -> str:
    if not bench.device.startswith("cuda"):
        raise NotHere("CUDA graphs are a GPU's")
    images = networks.frames(2)
    with bench.open(cuda_graph=True) as graph, bench.open() as plain:
        timer = graph.timer({"images": images})
        timer()
        if not timer.cuda_graph:
            raise NotHere(f"no CUDA graph: {timer.no_graph}")
        found = _db(plain.infer({"images": images})["scores"], timer.outputs()["scores"])
    _require(found >= 60, f"a CUDA graph's answers differ: {found:.1f} dB")
    return f"{found:.1f} dB between a CUDA graph and plain calls"


def _same_again(bench: Bench) -> str:
    images = networks.frames(2)
    answers = []
    for _ in range(2):
        with bench.open() as runner:
            answers.append(runner.infer({"images": images})["scores"])
    found = _db(*answers)
    _require(found >= 60, f"two loads of one file agree to {found:.1f} dB")
    return "two loads of one file give one answer"


def _fit(bench: Bench) -> str:
    _, built = bench.build("fp32")
    if not bench.runs:
        raise NotHere("no device to fit")
    here = bench.engine.misfits(built.identity, bench.device)
    other = bench.engine.misfits(built.identity.model_copy(update={"version": "0.0.1"}), bench.device)
    _require(not here, f"what was built here does not fit here: {'; '.join(here)}")
    _require(bool(other), "an engine of another version counts as fitting")
    return "fits here, and one of another version does not"


def _conditions(bench: Bench) -> str:
    with for_device(bench.device) as watch:
        pass
    found = watch.conditions()
    if not found.source:
        raise NotHere("this system shows neither clocks nor power")
    return f"read from {found.source}: clock {found.clock_mhz or '–'} MHz, power {found.power_w or '–'} W"


def _timing_cache(bench: Bench) -> str:
    _only_tensorrt(bench)
    cache = bench.folder / "timing.cache"
    bench.build("fp32", "cached", timing_cache=cache)
    _, again = bench.build("fp32", "cached-again", timing_cache=cache)
    _require(again.timing_cache_hit is True, "the second build did not find the first one's timing cache")
    return "the second build reused the cache"


def _version_compatible(bench: Bench) -> str:
    _only_tensorrt(bench)
    bench.build("fp32", "compatible", version_compatible=True)
    with bench.open("fp32", "compatible") as runner:
        found = _db(networks.answers(networks.frames(2)), runner.infer({"images": networks.frames(2)})["scores"])
    _require(found >= LEAST_DB["fp32"], f"{found:.1f} dB against numpy")
    return f"opened, {found:.1f} dB against numpy"


def _only_tensorrt(bench: Bench) -> None:
    if bench.name != "tensorrt":
        raise NotHere("TensorRT's")
    if not bench.runs:
        raise NotHere("TensorRT builds only on a GPU")


CHECKS = (
    Check("available", _available, "everything: the engine's package does not load"),
    Check("build fp32", _built("fp32"), "building"),
    Check("answers fp32", _right("fp32"), "any verdict"),
    Check("audit fp32", _audited("fp32"), "the achieved precision"),
    Check("build fp16", _built("fp16"), "precision fp16"),
    Check("answers fp16", _right("fp16"), "precision fp16"),
    Check("build int8", _built("int8"), "precision int8"),
    Check("answers int8", _right("int8"), "precision int8"),
    Check("audit int8", _audited("int8"), "the achieved precision of int8"),
    Check("dynamic batch", _batches, "a batch of another size than the judged one"),
    Check("consistency", _consistent, "batches: rows leak into each other"),
    Check("wrong shape refused", _refused("a wrong shape", _wrong_shape), "errors of the runtime"),
    Check("foreign file refused", _refused("a file of noise", _foreign), "loading files that were not verified"),
    Check("changed file refused", _refused("a changed file", _changed), "the hash check at load"),
    Check("timer", _timer, "latency figures"),
    Check("CUDA graph", _cuda_graph, "target.cuda_graph"),
    Check("same answer again", _same_again, "known answers"),
    Check("fit", _fit, "the fit of bundles"),
    Check("clocks and power", _conditions, "the conditions in the report"),
    Check("timing cache", _timing_cache, "target.timing_cache"),
    Check("version-compatible plan", _version_compatible, "target.version_compatible"),
)
