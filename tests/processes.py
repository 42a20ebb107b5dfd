"""Commands in processes of their own, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

Ended = subprocess.CompletedProcess[str]


def edgeship_line(*arguments: object) -> list[str]:
    """The line that starts edgeship with this Python, for ``subprocess``."""
    return [sys.executable, "-m", "edgeship", *map(str, arguments)]


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start edgeship; ``options`` are those of ``subprocess.Popen``."""
    return subprocess.Popen(
        edgeship_line(*arguments), **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    )


def python(*arguments: object, check: bool = False, **options: Any) -> Ended:
    """Run this Python to its end; ``options`` are those of ``subprocess.run``."""
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, check=check, **{"capture_output": True, "text": True, "timeout": 600} | options)


def edgeship(*arguments: object, **options: Any) -> Ended:
    """Run edgeship to its end, as :func:`python` does."""
    return python("-m", "edgeship", *arguments, **options)
