"""The git commit that a folder stands at."""

from __future__ import annotations

import subprocess
from pathlib import Path

GIT_LIMIT_S = 10.0


def commit_of(folder: Path) -> tuple[str, bool]:
    """The git commit that a folder stands at, and whether files below it differ; ``("", False)`` outside a repository.

    Untracked files do not count as changes.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return "", False
    return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no", "--", "."))


def _git(folder: Path, *arguments: str) -> str:
    """What git says; empty where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
