"""Which products to leave in float, by measured latency: ModelOpt's autotune of Q/DQ placement for TensorRT.

ModelOpt (``modelopt.onnx.quantization.autotune``) finds regions of a graph, tries placements of Q/DQ pairs in each and
keeps the fastest. What is taken from it is the choice alone: the products that it leaves in float are kept so in an
INT8 candidate, whose graph, ranges and trial are edgeship's own.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.errors import DeviceError, MissingExtra, QuantizeError
from edgeship.files import read_text, write_text
from edgeship.prepare import graph, modelopt
from edgeship.prepare.qdq_tensorrt import left_by_modelopt
from edgeship.prepare.quantized_tensors import WEIGHTED
from edgeship.progress import Progress, silent
from edgeship.results import Autotuned

STATE, SPENT = "autotune.yaml", "spent.json"
Measure = Callable[[bytes], float]
"""A serialized ONNX → milliseconds; infinity where it could not be built."""


@dataclass(frozen=True)
class Request:
    """What to tune.

    ``budget_s`` is of all calls in ``folder`` together: one that was stopped goes on where it ended. ``schemes``: at
    most so many placements a region. ``shapes``: of the inputs, as they are timed.
    """

    model: Path
    folder: Path
    budget_s: float
    shapes: Mapping[str, tuple[int, ...]]
    schemes: int = 30
    progress: Progress = silent


def autotune(request: Request, measure: Measure | None = None) -> Autotuned:
    """The products that the fastest placement leaves in float.

    Args:
        request: The FP32 graph, the folder and the budget.
        measure: How long a graph takes; None: TensorRT, as ModelOpt measures it.

    Raises:
        DeviceError: TensorRT, or PyTorch on CUDA, which ModelOpt measures with, is not here.
        QuantizeError: The graph without Q/DQ pairs could not be measured.
        MissingExtra: ModelOpt is not installed.
    """
    measure = tensorrt_measure(request.folder, request.shapes) if measure is None else measure
    model = graph.load_onnx(request.model)
    session = _Session(request, measure, _tuner(model))
    with modelopt.quiet():
        finished = session.run()
        found = session.tuner.export_onnx(None, insert_qdq=True)
        best_ms = measure(found)
    import onnx

    tuned = onnx.load_from_string(found)
    products = [node.name for node in model.graph.node if node.op_type in WEIGHTED]
    keep = tuple(node.name for node in left_by_modelopt(model, tuned))
    return Autotuned(
        keep=keep,
        products=len(products),
        regions=len(session.tuner.regions),
        tried=session.tried,
        seconds=session.spent(),
        baseline_ms=session.tuner.baseline_latency_ms,
        best_ms=best_ms,
        finished=finished,
    )


def tensorrt_measure(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Measure:
    """ModelOpt's measurement with TensorRT's Python API, on this machine's GPU.

    Raises:
        DeviceError: What it needs is not here; the message says what.
    """
    missing = _missing()
    if missing:
        raise DeviceError(
            f"ModelOpt's autotune times every placement with TensorRT and PyTorch on this machine's GPU, and {missing}",
            expected="TensorRT 10 with its Python package, and PyTorch for CUDA",
            do="remove candidates.autotune_s, or run ship where both are",
        )
    from modelopt.onnx.quantization.autotune import TensorRTPyBenchmark

    with modelopt.quiet():
        bench = TensorRTPyBenchmark(timing_cache_file=str(folder / "timing.cache"))
        for name, shape in shapes.items():
            bench.set_shapes(name, list(shape), list(shape), list(shape))

    def measure(content: bytes) -> float:
        return float(bench.run(content))

    return measure


def _missing() -> str:
    """Why ModelOpt could not measure here; empty when it could."""
    if importlib.util.find_spec("tensorrt") is None:
        return "the package tensorrt is not installed"
    trt = importlib.import_module("tensorrt")
    if not hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        return f"TensorRT {trt.__version__} has no EXPLICIT_BATCH, which this ModelOpt asks for"
    import torch

    return "" if torch.cuda.is_available() else "PyTorch finds no CUDA device"


def _tuner(model: Any) -> Any:
    """ModelOpt's tuner of a graph. Raises MissingExtra."""
    try:
        from modelopt.onnx.quantization.autotune import Config, QDQAutotuner
    except ImportError:
        raise MissingExtra("placing Q/DQ pairs by measured latency", "nvidia-modelopt", "host") from None
    with modelopt.quiet():
        tuner = QDQAutotuner(model)
        tuner.initialize(Config(default_quant_type="int8", default_dq_dtype="float32"))
    return tuner


class _Session:
    """One call's way through the regions: the state is saved after each, and the seconds spent with it."""

    def __init__(self, request: Request, measure: Measure, tuner: Any) -> None:
        self._request, self._measure, self.tuner = request, measure, tuner
        self.tried = 0
        self._before = _seconds(request.folder / SPENT)
        self._start = time.perf_counter()
        request.folder.mkdir(parents=True, exist_ok=True)

    def spent(self) -> float:
        """Seconds of this call and of those before it."""
        return self._before + time.perf_counter() - self._start

    def run(self) -> bool:
        """Try placements until all regions are done, True, or the budget is spent, False. Raises QuantizeError."""
        state = self._request.folder / STATE
        if state.is_file():
            self.tuner.load_state(str(state))
        self._baseline()
        finished = self._regions()
        self._save()
        return finished

    def _regions(self) -> bool:
        tuner, regions = self.tuner, list(self.tuner.regions)
        for number, region in enumerate(regions):
            self._request.progress(number, len(regions), "placing Q/DQ pairs by measured latency")
            tuner.set_profile_region(region, commit=False)
            if tuner.current_profile_pattern_schemes is None:
                continue  # known from before, or the same pattern as another's
            for _ in range(self._request.schemes):
                if self.spent() >= self._request.budget_s:
                    return False
                if tuner.generate() == -1:
                    break
                taken = self._measure(tuner.export_onnx(None, insert_qdq=True))
                tuner.submit(taken, success=math.isfinite(taken))
                self.tried += 1
            self._save()
        return True

    def _baseline(self) -> None:
        if self.tuner.baseline_latency_ms is not None:
            return
        taken = self._measure(self.tuner.export_onnx(None, insert_qdq=False))
        if not (math.isfinite(taken) and taken > 0):
            raise QuantizeError(
                "TensorRT could not build or time the FP32 graph for ModelOpt's autotune",
                do="edgeship preflight names what TensorRT does not support; or remove candidates.autotune_s",
            )
        self.tuner.submit(taken)

    def _save(self) -> None:
        self.tuner.set_profile_region(None, commit=True)  # what is not committed is not in the state
        self.tuner.save_state(str(self._request.folder / STATE))
        write_text(self._request.folder / SPENT, json.dumps({"seconds": self.spent()}))


def _seconds(path: Path) -> float:
    """The seconds that earlier calls spent; 0 without a readable note of them."""
    try:
        return float(json.loads(read_text(path))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
