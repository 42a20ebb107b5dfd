"""What a run judges, and from what: the model's version, the commit of its folder, digests of model and data."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgeship.files import sha256_bytes
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.stages import Run
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Lineage

GIT_LIMIT_S = 10.0


def lineage(run: Run) -> Lineage:
    """The lineage of a run, as far as its stages have ended."""
    config = run.config
    digests = {"model": run.result(SLIM).model.sha256} if SLIM.name in run.results else {}
    if config.model.weights is not None and config.model.weights.is_file():
        digests["weights"] = run.hasher.file(config.model.weights)
    if CALIBRATE.name in run.results:
        digests["calibration frames"] = run.result(CALIBRATE).frames_sha256
    evaluation = run.result(REFERENCE).trials[0][1].evaluation
    if evaluation is not None:
        digests["evaluation images"] = evaluation.images_sha256
    if config.file.is_file():
        digests["config"] = sha256_bytes(config.file.read_bytes())
    commit, changed = commit_of(config.root)
    return Lineage(version=config.model.version, commit=commit, changed=changed, digests=digests)


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
