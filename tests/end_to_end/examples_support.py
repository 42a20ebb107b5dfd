"""Examples as a user runs them: a copy of the folder, its packages beside it, its scripts as processes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects import ROOT, Project

from processes import python

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Example(Project):
    """A copy of an example that a test may change, and the folder with the packages it asks for."""

    packages: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the example's processes find on their Python path."""
        return {"PYTHONPATH": str(self.packages)} if self.packages else {}

    def trial(self, candidate: str) -> Any:
        """One trial of the last run."""
        return next(item for item in self.result()["trials"] if item["candidate"] == candidate)

    def script(self, *command: object) -> str:
        """Run one of the example's scripts; returns what it printed."""
        done = python(*command, cwd=self.folder, env=os.environ | self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


def copy_example(name: str, folder: Path, packages: Path | None = None) -> Example:
    """A copy of an example, without what earlier runs left in it.

    Latency budgets are set aside: a machine that runs tests is a busy one. A p99 takes 300 calls to bound and is left
    to the demo and the README's commands.
    """
    left = shutil.ignore_patterns("edgeship-out", "__pycache__", "scenes", "*.onnx")
    shutil.copytree(EXAMPLES / name, folder, ignore=left)
    example = Example(folder, packages)
    example.change("latency_p50_ms = 33.0", "latency_p50_ms = 5000.0")
    example.change("latency_p99_ms = 200.0\n", "")
    example.change("min_samples = 400", "min_samples = 30\nmin_s = 0.2\nmax_s = 120.0")
    example.change("precision   = 0.1 ", "precision   = 0.9 ")
    example.change("[candidates]\n", "[candidates]\nreduced_range = false\n")  # the same candidates on any processor
    return example


def install(name: str, folder: Path) -> Path:
    """Install an example's requirements into ``folder``, as its README says; returns the folder."""
    return install_requirements(EXAMPLES / name / "requirements.txt", folder)


def install_requirements(requirements: Path, folder: Path) -> Path:
    """Install the pinned packages of a file, without what they depend on, into ``folder``; returns the folder."""
    options = ("--quiet", "--no-deps", "--disable-pip-version-check")
    done = python("-m", "pip", "install", *options, "--target", folder, "-r", requirements)
    assert done.returncode == 0, done.stderr
    return folder
