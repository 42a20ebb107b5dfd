"""The checks of ``edgeship selftest``: each builds, runs or refuses something real, and compares with known answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeship.bundle import Contents, write
from edgeship.config import Precision, takes_tensorrt_graphs
from edgeship.engines import BuildRequest
from edgeship.errors import EdgeshipError, PrecisionError
from edgeship.results import Artifact, Audit, Candidate, Decision, Trial, TrialSpec, trial_folder
from edgeship.runtime.model import load
from edgeship.selftest import networks, on_tensorrt
from edgeship.selftest.bench import BATCH, LEAST_DB, Bench, Check, Failed, NotHere, decibels, optional, require
from edgeship.trial.conditions import for_device
from edgeship.trial.consistency import Asked, audit_consistency
from edgeship.trial.run import save_arrays


def _available(bench: Bench) -> str:
    probe = bench.engine.probe()
    require(probe.available or bool(probe.version), probe.reason)
    return f"{probe.engine} {probe.version} with {', '.join(probe.devices) or 'no device'}"


def _built(precision: Precision) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        try:
            _, built = bench.build(precision)
        except PrecisionError as error:
            raise optional(bench, precision, error) from None
        return f"built in {built.seconds:.2f} s"

    return run


def _right(precision: Precision) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        try:
            return f"{bench.right(precision)} in double precision"
        except PrecisionError as error:
            raise optional(bench, precision, error) from None

    return run


def _audited(precision: Precision) -> Callable[[Bench], str]:
    def run(bench: Bench) -> str:
        try:
            request, _ = bench.build(precision)
        except PrecisionError as error:
            raise optional(bench, precision, error) from None
        audit: Audit = bench.engine.audit(request.output, request, bench.options)
        require(audit.achieved is not None, f"the report names no product: {'; '.join(audit.notes)}")
        return f"{audit.achieved:.0%} of the arithmetic in {audit.asked}, read from the {audit.source}"

    return run


def _mixed(bench: Bench) -> str:
    keep = "n_scores"
    try:
        request, _ = bench.build("int8", "mixed", {"keep": (keep,)})
    except PrecisionError as error:
        raise optional(bench, "int8", error) from None
    audit = bench.engine.audit(request.output, request, bench.options)
    require(bool(audit.achieved), f"nothing but {keep} is kept, and none of the rest is int8: {'; '.join(audit.notes)}")
    require(any(keep in name for name in audit.kept), f"the product {keep} is not told to be kept in float")
    said = f"{audit.kept_share or 0:.2%} of the arithmetic kept in float, {audit.achieved:.0%} of the rest in int8"
    return f"{said}, {bench.right('int8', 'mixed')}" if bench.runs else said


def _batches(bench: Bench) -> str:
    images = networks.frames(BATCH.max)
    with bench.open() as runner:
        whole = runner.infer({"images": images})["scores"]
        alone = np.concatenate(
            [runner.infer({"images": images[row : row + 1]})["scores"] for row in range(len(images))]
        )
    found = decibels(alone, whole)
    require(found >= 60, f"a batch of {BATCH.max} and its rows alone agree to {found:.1f} dB")
    return f"{found:.1f} dB between a batch of {BATCH.max} and its rows"


def _consistent(bench: Bench) -> str:
    with bench.open() as runner:
        found = audit_consistency(runner, {"images": networks.frames(8)}, Asked("fp32", BATCH, BATCH.opt))
    broken = [check.what for check in found.checks if not check.passed]
    require(not broken, f"differs: {', '.join(broken)}")
    return f"{len(found.checks)} comparisons agree"


def _refused(what: str, act: Callable[[Bench], object]) -> Callable[[Bench], str]:
    """A check that ``act`` is refused. What it needs must have been had before: the network itself builds and opens."""

    def run(bench: Bench) -> str:
        if act is _unknown_operator:
            bench.build("fp32")
        else:
            bench.open().close()
        try:
            act(bench)
        except EdgeshipError as error:
            return f"refused: {error.found}"
        raise Failed(f"{what} was accepted")

    return run


def _wrong_shape(bench: Bench) -> None:
    with bench.open() as runner:
        runner.infer({"images": np.zeros((2, networks.CHANNELS, networks.SIZE + 1, networks.SIZE), np.float32)})


def _unknown_operator(bench: Bench) -> None:
    model = networks.write_unknown(bench.folder / "unknown.onnx")
    output = bench.folder / f"unknown{bench.engine.SUFFIX}"
    bench.engine.build(BuildRequest(model, output, "fp32", bench.target()))
    bench.engine.open(output, bench.options).close()


def _above(bench: Bench) -> str:
    if not takes_tensorrt_graphs(bench.name):
        raise NotHere("it serves any batch: it has no profile")
    with bench.open() as runner:
        try:
            runner.infer({"images": networks.frames(BATCH.max + 1)})
        except EdgeshipError as error:
            return f"refused: {error.found}"
    raise Failed(f"a batch of {BATCH.max + 1} was served by a profile up to {BATCH.max}")


def _dependent(bench: Bench) -> str:
    if bench.name == "tensorrt-rtx":
        raise NotHere("TensorRT-RTX has no NonZero: TensorRT's is a plugin, and it has none")
    model = networks.write_dependent(bench.folder / "dependent.onnx")
    output = bench.folder / f"dependent{bench.engine.SUFFIX}"
    bench.engine.build(BuildRequest(model, output, "fp32", bench.target()))
    if not bench.runs:
        raise NotHere("built; no device to run on")
    images = networks.frames(2)
    with bench.engine.open(output, bench.options) as runner:
        for rows in (2, 1):
            found = np.asarray(runner.infer({"images": images[:rows]})["places"])
            wanted = np.stack(np.nonzero(images[:rows] > 0))
            require(found.shape == wanted.shape, f"{list(found.shape)} values, numpy finds {list(wanted.shape)}")
            require(bool((found == wanted).all()), "other places than numpy's")
    return f"{wanted.shape[1]} places of one frame and those of two, as numpy's"


def _foreign(bench: Bench) -> None:
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
        found = decibels(runner.infer({"images": images})["scores"], timer.outputs()["scores"])
    require(found >= 60, f"the timed outputs differ: {found:.1f} dB")
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
        found = decibels(plain.infer({"images": images})["scores"], timer.outputs()["scores"])
    require(found >= 60, f"a CUDA graph's answers differ: {found:.1f} dB")
    return f"{found:.1f} dB between a CUDA graph and plain calls"


def _same_again(bench: Bench) -> str:
    images = networks.frames(2)
    answers = []
    for _ in range(2):
        with bench.open() as runner:
            answers.append(runner.infer({"images": images})["scores"])
    found = decibels(*answers)
    require(found >= 60, f"two loads of one file agree to {found:.1f} dB")
    return "two loads of one file give one answer"


def _bundle(bench: Bench) -> str:
    """The answers of an opened engine, in a bundle that the runtime loads: it compares its own with them."""
    images, place = networks.frames(1), bench.folder
    with bench.open() as runner:
        known = {"in:images": images, "out:scores": runner.infer({"images": images})["scores"]}
    request, built = bench.build("fp32")
    candidate = Candidate(name="fp32", precision="fp32")
    model = Artifact.of(request.onnx, place)
    spec = TrialSpec(candidate=candidate, target=request.target, model=model, benchmark=None)
    trial_folder.write_spec(spec, place)
    trial = Trial(candidate=candidate, engine=bench.name, device=bench.device, build=built)
    trial_folder.write_trial(trial, place)
    save_arrays(place / trial_folder.KNOWN_ANSWER, known)
    decision = Decision(verdict="SHIP", chosen="fp32", sentence="a self-test", judged=())
    write(Contents(place, decision), place / "bundle")
    with load(place / "bundle") as loaded:
        found = decibels(networks.answers(images), loaded.infer({"images": images})["scores"])
    require(found >= LEAST_DB["fp32"], f"the runtime answers with {found:.1f} dB against numpy")
    return f"written, verified and loaded; the known answer came, {found:.1f} dB against numpy"


def _fit(bench: Bench) -> str:
    _, built = bench.build("fp32")
    if not bench.runs:
        raise NotHere("no device to fit")
    here = bench.engine.misfits(built.identity, bench.device)
    other = bench.engine.misfits(built.identity.model_copy(update={"version": "0.0.1"}), bench.device)
    require(not here, f"what was built here does not fit here: {'; '.join(here)}")
    require(bool(other), "an engine of another version counts as fitting")
    return "fits here, and one of another version does not"


def _conditions(bench: Bench) -> str:
    with for_device(bench.device) as watch:
        pass
    found = watch.conditions()
    if not found.source:
        raise NotHere("this system shows neither clocks nor power")
    return f"read from {found.source}: clock {found.clock_mhz or '–'} MHz, power {found.power_w or '–'} W"


CHECKS = (
    Check("available", _available, "everything: the engine's package does not load"),
    Check("build fp32", _built("fp32"), "building"),
    Check("answers fp32", _right("fp32"), "any verdict"),
    Check("audit fp32", _audited("fp32"), "the achieved precision"),
    Check("build fp16", _built("fp16"), "precision fp16"),
    Check("answers fp16", _right("fp16"), "precision fp16"),
    Check("audit fp16", _audited("fp16"), "the achieved precision of fp16"),
    Check("build int8", _built("int8"), "precision int8"),
    Check("answers int8", _right("int8"), "precision int8"),
    Check("audit int8", _audited("int8"), "the achieved precision of int8"),
    Check("mixed precision", _mixed, "candidates.keep and the search"),
    Check("dynamic batch", _batches, "a batch of another size than the judged one"),
    Check("consistency", _consistent, "batches: rows leak into each other"),
    Check("operator refused", _refused("an operator that does not exist", _unknown_operator), "errors of the parser"),
    Check("above the profile refused", _above, "target.batch.max"),
    Check("data-dependent output", _dependent, "networks whose number of answers depends on the image"),
    Check("wrong shape refused", _refused("a wrong shape", _wrong_shape), "errors of the runtime"),
    Check("foreign file refused", _refused("a file of noise", _foreign), "loading files that were not verified"),
    Check("changed file refused", _refused("a changed file", _changed), "the hash check at load"),
    Check("timer", _timer, "latency figures"),
    Check("CUDA graph", _cuda_graph, "target.cuda_graph"),
    Check("same answer again", _same_again, "known answers"),
    Check("fit", _fit, "the fit of bundles"),
    Check("bundle and known answer", _bundle, "what edgeship.load says of a bundle"),
    Check("clocks and power", _conditions, "the conditions in the report"),
    *on_tensorrt.CHECKS,
)
