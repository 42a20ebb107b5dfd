"""Examples as a user runs them: a copy of the folder, its packages beside it, its scripts as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Example:
    """A copy of an example that a test may change, and the folder with the packages it asks for."""

    folder: Path
    packages: Path | None = None

    @property
    def config(self) -> Path:
        """Its edgeship.toml."""
        return self.folder / "edgeship.toml"

    @property
    def environment(self) -> dict[str, str]:
        """What the example's processes find on their Python path."""
        return {"PYTHONPATH": str(self.packages)} if self.packages else {}

    @property
    def result(self) -> Any:
        """The result.json of the last run."""
        return json.loads((self.folder / "edgeship-out" / "result.json").read_text())

    def trial(self, candidate: str) -> Any:
        """One trial of the last run."""
        return next(item for item in self.result["trials"] if item["candidate"] == candidate)

    def change(self, old: str, new: str) -> None:
        """Edit the config; the old text must be there."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def script(self, *command: object) -> str:
        """Run one of the example's scripts; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
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
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--target", str(folder), "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder
