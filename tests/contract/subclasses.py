"""Run in a process of its own: construct our subclasses of the vendor's classes and call them. JSON out."""

from __future__ import annotations

import importlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Calibrator, Target
from edgeship.engines import BuildRequest, cuda
from edgeship.engines.trt import buffers, build, flavour, implicit
from edgeship.errors import EdgeshipError


def main() -> None:
    trt = importlib.import_module(os.environ["CONTRACT_MODULE"])
    answer: dict[str, object] = {"version": trt.__version__}
    log = flavour.Log()
    logger = flavour.logger(trt, log)
    logger.log(trt.ILogger.Severity.ERROR, "something failed")
    logger.log(trt.ILogger.Severity.VERBOSE, "not kept")
    answer["logger"] = isinstance(logger, trt.ILogger)
    answer["log"] = log.lines

    said: list[tuple[int, int | None]] = []
    monitor = build.progress_monitor(trt, lambda done, total, what: said.append((done, total)), threading.Event())
    monitor.phase_start("building", None, 2)
    monitor.phase_start("inner", "building", 5)
    answer["go on"] = [monitor.step_complete("building", 0), monitor.step_complete("inner", 0)]
    monitor.phase_finish("inner")
    monitor.phase_finish("building")
    answer["monitor"] = isinstance(monitor, trt.IProgressMonitor)
    answer["progress"] = said

    slot = buffers.Slot.__new__(buffers.Slot)
    shapes: dict[str, tuple[int, ...]] = {}
    allocator = buffers.output_allocator(trt, slot, shapes)
    slot.size_bytes = 16
    answer["too large"] = allocator.reallocate_output_async("boxes", 0, 17, 1, 0)
    allocator.notify_shape("boxes", trt.Dims((3, 4)))
    answer["allocator"] = isinstance(allocator, trt.IOutputAllocator)
    answer["shapes"] = {name: list(shape) for name, shape in shapes.items()}
    answer["dtypes"] = sorted(
        flavour.dtype_name(value) for name, value in trt.DataType.__members__.items() if name in flavour.DTYPES
    )
    if hasattr(trt, "IInt8EntropyCalibrator2"):
        answer["calibrators"] = [calibrate(trt, "entropy"), calibrate(trt, "minmax")]
    answer["implicit"] = {"alone": refused(trt, None), "with frames": refused(trt, iter(()))}
    if "rtx" not in trt.__name__ and not cuda.cuda().gpus:
        answer["without a GPU"] = unbuildable(trt)
    print(json.dumps(answer))


def refused(trt: Any, frames: Any) -> str:
    """The kind and words of the refusal of an implicit build; empty when it is possible."""
    engine = "tensorrt-rtx" if "rtx" in trt.__name__ else "tensorrt"
    request = BuildRequest(Path("model.onnx"), Path("x.engine"), "implicit", Target(engine=engine), frames=frames)
    try:
        implicit.refuse_unless_possible(flavour.Flavour(trt, engine), request)
    except EdgeshipError as error:
        return f"{type(error).__name__}: {error.found}"
    return ""


def unbuildable(trt: Any) -> str:
    """What a build says where there is no GPU."""
    request = BuildRequest(Path("model.onnx"), Path("x.engine"), "fp32", Target(engine="tensorrt", device="cuda:0"))
    try:
        build.build(flavour.Flavour(trt, "tensorrt"), request)
    except EdgeshipError as error:
        return f"{type(error).__name__}: {error.found}"
    return ""


def calibrate(trt: object, name: Calibrator) -> dict[str, object]:
    """Three single frames through a calibrator of batch 2, and what it copied to the device."""
    copied: list[list[float]] = []

    def upload(feeds: Any) -> dict[str, int]:
        copied.append(feeds["x"][:, 0].tolist())
        return {"x": 4096}

    frames = implicit.batched(iter([{"x": np.full((1, 3), row, np.float32)} for row in range(3)]), {"x": (2, 3)})
    algorithm = implicit.ALGORITHMS[name]
    serves = implicit.Calibration(b"TRT-1-X\nx: 3c010a14\n", frames, upload, 2, algorithm)
    calibrator = implicit.calibrator(trt, serves)
    calibrator.write_calibration_cache(b"kept")
    base = "IInt8MinMaxCalibrator" if name == "minmax" else "IInt8EntropyCalibrator2"
    return {
        "is": isinstance(calibrator, getattr(trt, base)),
        "algorithm": str(calibrator.get_algorithm()),
        "batch": calibrator.get_batch_size(),
        "batches": [calibrator.get_batch(["x"]) for _ in range(3)],
        "copied": copied,
        "cache": calibrator.read_calibration_cache().decode(),
        "written": (serves.written or b"").decode(),
    }


if __name__ == "__main__":
    main()
