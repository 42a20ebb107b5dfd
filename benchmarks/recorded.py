"""What a recorded figure holds of the machine, the versions and the commit it was measured with."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from edgeship import __version__
from edgeship.engines import processor


def conditions() -> dict[str, object]:
    """Processor, cores, versions and commit."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).resolve().parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": f"{processor.name()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "instruction_sets": " ".join(processor.instruction_sets()),
        "python": platform.python_version(),
        "edgeship": __version__,
        "commit": done.stdout.strip(),
    }
