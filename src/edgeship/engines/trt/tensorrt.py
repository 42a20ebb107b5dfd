"""TensorRT 10 and 11: builds on the GPU that will run the engine."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import EngineName
from edgeship.engines import BuildRequest, OpenOptions, Probe, Runner
from edgeship.engines.trt import engine as trt_engine
from edgeship.engines.trt import trtexec
from edgeship.results import Audit, Build, Identity

NAME: EngineName = "tensorrt"
SUFFIX = ".engine"


def probe() -> Probe:
    """What of TensorRT is installed here. Never raises."""
    return trt_engine.probe(NAME)


def identity(device: str) -> Identity:
    """What an engine built here for ``device`` would be bound to. Raises MissingExtra, DeviceError."""
    return trt_engine.identity_of(NAME, device)


def build(request: BuildRequest) -> Build:
    """Build the engine file, with trtexec where ``target.via`` says so.

    For the errors see :func:`edgeship.engines.trt.build.build` and :func:`edgeship.engines.trt.trtexec.build`.
    """
    if request.target.via == "trtexec":
        return trtexec.build(request)
    return trt_engine.build(NAME, request)


def audit(engine: Path, request: BuildRequest, options: OpenOptions) -> Audit:
    """Asked-for against achieved precision: from the inspector where the engine opens, else from the network."""
    return trt_engine.audit_engine(NAME, engine, request, options)


def open(engine: Path, options: OpenOptions) -> Runner:
    """Open an engine file. Raises EngineMismatch, DeviceError, EngineError."""
    return trt_engine.open_engine(NAME, engine, options)


def misfits(built: Identity, device: str) -> list[str]:
    """What of ``built`` differs from this machine so that the engine would not load; empty when it fits."""
    return trt_engine.misfits(NAME, built, device)
