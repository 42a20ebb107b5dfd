"""What this machine is: what its trials are bound to, and which modules they would find."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import PIL

from edgeship import engines
from edgeship.config import EngineName
from edgeship.engines import processor
from edgeship.engines.trt import trtexec
from edgeship.errors import EdgeshipError


def machine(engine: EngineName, device: str, via: str) -> dict[str, Any]:
    """What trials on this machine are bound to: what is installed, and what an engine built here would be bound to.

    What cannot be told is a sentence that says why. ``via``: as ``target.via``.
    """
    module = engines.get(engine)
    return {
        "identity": _or_why(lambda: module.identity(device).model_dump(mode="json")),
        "installed": asdict(module.probe()),
        "processor": processor.facts(),
        "trtexec": _or_why(lambda: trtexec.ask(trtexec.find()).version) if via == "trtexec" else None,
        "libraries": {"numpy": numpy.__version__, "pillow": PIL.__version__},
    }


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except EdgeshipError as error:
        return error.found


def importable(module: str) -> bool:
    """Whether a trial here finds a top-level module; the folder this process was started in does not count."""
    here = os.path.realpath(Path.cwd())
    places = [part for part in sys.path if part and os.path.realpath(part) != here]
    for finder in sys.meta_path:
        path = places if finder is importlib.machinery.PathFinder else None
        if finder.find_spec(module, path) is not None:
            return True
    return False
