"""A trial that passed, and a bundle of it that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeship.trial.run import run_trial
from vehicle_support import ground, make_trial


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that was run once. Tests must not change it."""
    root = tmp_path_factory.mktemp("bundle")
    folder = make_trial(root / "trial", ground(root / "ground"))
    run_trial(folder)
    return folder


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the module's own ``pristine`` bundle."""
    shutil.copytree(pristine, tmp_path / "bundle")
    return tmp_path / "bundle"
