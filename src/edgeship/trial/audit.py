"""The audit step of a trial: asked-for precision against achieved precision."""

from __future__ import annotations

from pathlib import Path

from edgeship import engines
from edgeship.engines import OpenOptions
from edgeship.results import Audit, Build, TrialSpec
from edgeship.trial.build import request_of


def audit(spec: TrialSpec, folder: Path, build: Build) -> Audit:
    """Look into the built engine, or at the parsed network where the engine does not run here.

    Raises:
        EngineError: The engine cannot be inspected, or its layers ran elsewhere than asked for.
    """
    target = spec.target
    options = OpenOptions(
        device=target.device, threads=target.threads, tf32=target.tf32, nhwc=target.nhwc, plugins=target.plugins
    )
    engine = engines.get(target.engine)
    return engine.audit(folder / build.engine.path, request_of(spec, folder), options)
