"""A tracker's own process: ``python -m edgeship.tracking.child JOB``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from edgeship.files import parse_json, read_text
from edgeship.tracking.told import Told


def main(arguments: list[str]) -> int:
    """Call the tracker that the job names; whatever it raises ends the process with its words."""
    job = parse_json(read_text(Path(arguments[0])))
    module, _, name = job["tracker"].partition(":")
    getattr(importlib.import_module(module), name)(Told.model_validate(job["told"]), job["where"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
