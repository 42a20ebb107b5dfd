"""The checks of TensorRT's own features: FP8, implicit INT8, plugins, plans for other cards, DLA, trtexec."""

from __future__ import annotations

import numpy as np

from edgeship.config import Benchmark
from edgeship.engines.trt import trtexec
from edgeship.engines.trt.implicit import written_beside
from edgeship.errors import DeviceError, PrecisionError, TargetError
from edgeship.selftest import networks
from edgeship.selftest.bench import Bench, Check, NotHere, require
from edgeship.trial.benchmark import quantiles

CLOCKS_AGREE = 0.10
"""How far trtexec's median may lie from ours: it times without the copies of a call, ours has both."""


def _fp8(bench: Bench) -> str:
    if not bench.name.startswith("tensorrt"):
        raise NotHere("FP8 is TensorRT's")
    if bench.name == "tensorrt" and not bench.runs:
        raise NotHere("TensorRT builds only on a GPU")
    try:
        request, _ = bench.build("fp8")
    except PrecisionError as error:
        raise NotHere(error.found) from None
    audit = bench.engine.audit(request.output, request, bench.options)
    require(bool(audit.achieved), f"none of the arithmetic is fp8: {'; '.join(audit.notes)}")
    if not bench.runs:
        return f"built, {audit.achieved:.0%} in fp8 by the {audit.source}; no device to run on"
    return f"{bench.right('fp8')}, {audit.achieved:.0%} in fp8"


def _implicit(bench: Bench) -> str:
    _only_tensorrt(bench)
    if not bench.engine.probe().version.startswith("10."):
        raise NotHere("implicit INT8 is TensorRT 10's")
    images = networks.frames(32, seed=2)
    frames = ({"images": images[row : row + 1]} for row in range(len(images)))
    request, _ = bench.build("implicit", extra={"frames": frames, "calibrator": "minmax"})
    said = bench.right("implicit")
    cache = written_beside(request.output)
    require(cache.is_file(), "TensorRT wrote no calibration cache")
    bench.build("implicit", "implicit-cached", {"cache": cache})
    again = bench.right("implicit", "implicit-cached")
    return f"calibrated by TensorRT from 32 frames of ours, {said}; from the cache that it wrote, {again}"


def _plugins(bench: Bench) -> str:
    _only_tensorrt(bench)
    from edgeship.engines.trt import flavour, network

    own = flavour.load("tensorrt")
    log = flavour.Log()
    network.own_plugins(own, flavour.logger(own.trt, log))
    registry = own.trt.get_plugin_registry()
    names = {creator.name for creator in getattr(registry, "all_creators", None) or registry.plugin_creator_list}
    require("EfficientNMS_TRT" in names, f"EfficientNMS_TRT is not among {len(names)} registered plugins")
    return f"{len(names)} plugins are registered, EfficientNMS_TRT among them"


def _timing_cache(bench: Bench) -> str:
    _only_tensorrt(bench)
    cache = bench.folder / "timing.cache"
    bench.build("fp32", "cached", timing_cache=cache)
    _, again = bench.build("fp32", "cached-again", timing_cache=cache)
    require(again.timing_cache_hit is True, "the second build did not find the first one's timing cache")
    return "the second build reused the cache"


def _version_compatible(bench: Bench) -> str:
    _only_tensorrt(bench)
    bench.build("fp32", "compatible", version_compatible=True)
    return f"opened, {bench.right('fp32', 'compatible')}"


def _hardware_compatible(bench: Bench) -> str:
    _only_tensorrt(bench)
    bench.build("fp32", "ampere", hardware_compatible=True)
    return f"opened here, {bench.right('fp32', 'ampere')}; no other card was asked"


def _dla(bench: Bench) -> str:
    _only_tensorrt(bench)
    try:
        bench.build("fp16", "dla", dla_core=0, gpu_fallback=True)
    except (DeviceError, PrecisionError) as error:  # no core here, or no FP16; a build that fails is a failure
        raise NotHere(error.found) from None
    return f"on core 0, {bench.right('fp16', 'dla')}"


def _against_trtexec(bench: Bench) -> str:
    _only_tensorrt(bench)
    try:
        trtexec.find()
    except TargetError as error:
        raise NotHere(error.found) from None
    request, _ = bench.build("fp32")
    images = networks.frames(2)
    measure = trtexec.Measure({"images": images.shape}, Benchmark(warmup_s=0.2, min_s=1.0), 2, device=bench.device)
    folder = bench.folder / "trtexec"
    folder.mkdir()
    theirs = trtexec.benchmark(request.output, measure, quantiles, folder)
    with bench.open() as runner:
        timer = runner.timer({"images": images})
        for _ in range(50):
            timer()
        ours = float(np.median([timer().device_ms or np.nan for _ in range(400)]))
    other = theirs.device_ms.p50 if theirs.device_ms else theirs.wall_ms.p50
    require(abs(ours - other) <= CLOCKS_AGREE * other, f"our median is {ours:.4g} ms, trtexec's {other:.4g} ms")
    return f"our median {ours:.4g} ms, trtexec's {other:.4g} ms"


def _only_tensorrt(bench: Bench) -> None:
    if bench.name != "tensorrt":
        raise NotHere("TensorRT's")
    if not bench.runs:
        raise NotHere("TensorRT builds only on a GPU")


CHECKS = (
    Check("fp8", _fp8, "precision fp8"),
    Check("implicit int8", _implicit, "precision implicit and target.calibrator"),
    Check("plugins", _plugins, "models with TensorRT's own plugins"),
    Check("timing cache", _timing_cache, "target.timing_cache"),
    Check("version-compatible plan", _version_compatible, "target.version_compatible"),
    Check("hardware-compatible plan", _hardware_compatible, "target.hardware_compatible"),
    Check("DLA", _dla, "target.dla_core"),
    Check("median of trtexec", _against_trtexec, "latency figures"),
)
