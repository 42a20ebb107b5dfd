"""The engine ``onnx-reference``: the evaluator of the onnx package, slow and exact, for FP32 on any processor.

The engine file is the candidate's ONNX itself. Every function here is one of ``edgeship.engines.Engine``.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.engines import BuildRequest, OpenOptions, Probe, Timing, read_engine
from edgeship.engines.checked_feeds import check_feeds
from edgeship.engines.onnx_file import read_inputs, read_nodes
from edgeship.engines.served_shapes import profiles_of
from edgeship.errors import DeviceError, EngineError, MissingExtra, PrecisionError
from edgeship.results import Artifact, Audit, Build, Identity

NAME = "onnx-reference"
SUFFIX = ".onnx"
KINDS = {"Conv": "Conv", "ConvTranspose": "Conv", "MatMul": "MatMul", "Gemm": "MatMul"}
"""ONNX operator → the kind that an audit counts it as."""


def probe() -> Probe:
    """Say what is installed, without raising."""
    try:
        import onnx
    except ImportError:
        return Probe(NAME, available=False, reason="the package onnx is not installed")
    return Probe(NAME, available=True, version=onnx.__version__, devices=("cpu",))


def identity(device: str) -> Identity:
    """What an engine built here is bound to: the version of onnx and the kind of machine."""
    if device != "cpu":
        raise DeviceError(f"{NAME} runs on the CPU alone, found {device!r}", do='set device = "cpu"')
    told = probe()
    if not told.available:
        raise MissingExtra(f"the engine {NAME}", "onnx", "host")
    place = f"{platform.machine()}-{platform.system().lower()}"
    return Identity(engine=NAME, version=told.version, device=platform.machine(), platform=place, portable=True)


def misfits(built: Identity, device: str) -> list[str]:
    """What of ``built`` differs from this machine."""
    here = identity(device)
    pairs = {"engine": (built.engine, here.engine), "onnx": (built.version, here.version)}
    return [f"built with {name} {there}, this is {own}" for name, (there, own) in pairs.items() if there != own]


def build(request: BuildRequest) -> Build:
    """Copy the ONNX file."""
    if request.precision != "fp32":
        raise PrecisionError(f"{NAME} computes in fp32, not in {request.precision}", do='use precisions = ["fp32"]')
    start = time.perf_counter()
    inputs, outputs = read_inputs(request.onnx)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(request.onnx, request.output)
    return Build(
        engine=Artifact.of(request.output, request.output.parent),
        identity=identity(request.target.device),
        seconds=time.perf_counter() - start,
        inputs=inputs,
        outputs=outputs,
        profiles=profiles_of(inputs, request.target),
    )


def audit(engine: Path, request: BuildRequest, options: OpenOptions) -> Audit:  # noqa: ARG001 - it is all FP32
    """Every convolution and product of the graph runs in FP32: nothing else is built."""
    found = Counter(KINDS[node.operator] for node in read_nodes(engine) if node.operator in KINDS)
    layers = {kind: {"fp32": count} for kind, count in found.items()}
    share = 1.0 if layers else None
    return Audit(
        source="network", asked=request.precision, layers=layers, achieved=share, arithmetic=share, weighed_by="count"
    )


def open(engine: Path, options: OpenOptions) -> ReferenceRunner:
    """Open an engine file, from the bytes that were checked."""
    return ReferenceRunner(engine, options)


class ReferenceRunner:
    """An open engine."""

    cuda_graph = False
    no_graph = ""

    def __init__(self, engine: Path, options: OpenOptions) -> None:
        from onnx.reference import ReferenceEvaluator

        self.inputs, self.outputs = read_inputs(engine)
        self._evaluator = ReferenceEvaluator(read_engine(engine, options))

    def infer(self, feeds: Any) -> dict[str, Any]:
        """Outputs by name. Raises DataError for feeds that do not fit, EngineError where the evaluator fails."""
        names = [info.name for info in self.outputs]
        ready = check_feeds(feeds, self.inputs)
        try:
            found = self._evaluator.run(names, ready)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise EngineError(f"{NAME} cannot run the graph: {error}") from None
        return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}

    def timer(self, feeds: Any) -> ReferenceTimer:
        """One inference that can be timed."""
        return ReferenceTimer(self, check_feeds(feeds, self.inputs))

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> ReferenceRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ReferenceTimer:
    """Inputs bound once; each call is one inference."""

    cuda_graph = False
    no_graph = ""

    def __init__(self, runner: ReferenceRunner, feeds: dict[str, Any]) -> None:
        self._runner, self._feeds = runner, feeds
        self._outputs = runner.infer(feeds)

    def __call__(self) -> Timing:
        start = time.perf_counter_ns()
        self._outputs = self._runner.infer(self._feeds)
        return Timing(wall_ms=(time.perf_counter_ns() - start) / 1e6)

    def outputs(self) -> dict[str, Any]:
        """The outputs of the last call."""
        return self._outputs
