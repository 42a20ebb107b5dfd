"""TensorRT-RTX: builds ahead of time for other GPUs, on a machine with none."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import EngineName
from edgeship.engines import BuildRequest, OpenOptions, Probe, Runner
from edgeship.engines.trt import engine as trt_engine
from edgeship.results import Audit, Build, Identity

NAME: EngineName = "tensorrt-rtx"
SUFFIX = ".engine"


def probe() -> Probe:
    """What of TensorRT-RTX is installed here. Never raises."""
    return trt_engine.probe(NAME)


def identity(device: str) -> Identity:
    """What an engine built here for ``device`` would be bound to. Raises MissingExtra, DeviceError."""
    return trt_engine.identity_of(NAME, device)


def build(request: BuildRequest) -> Build:
    """Build the engine file; see :func:`edgeship.engines.trt.build.build` for the errors."""
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
