"""Fixtures of the tests through the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Done, Edgeship, Project, make_project

import processes
from edgeship.targets import link
from sshd_support import Device, device


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device behind a real sshd on loopback, and the SSH config that reaches it."""
    with device(tmp_path_factory.mktemp("device")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESHIP_SSH_CONFIG", str(made.config))
        yield made
        link.close_all()


@pytest.fixture
def edgeship(tmp_path: Path) -> Edgeship:
    """Run the command line in a process of its own, as a user would."""

    def run(*arguments: object, cwd: Path | None = None, timeout: float = 300, **more: str) -> Done:
        environment = {key: value for key, value in os.environ.items() if key != "EDGESHIP_DEBUG"} | more
        done = processes.edgeship(*arguments, cwd=cwd or tmp_path, env=environment, timeout=timeout)
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh small project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A small project that was shipped once. Tests must not change it."""
    made = make_project(tmp_path_factory.mktemp("shipped") / "project")
    done = processes.edgeship("ship", made.config)
    assert done.returncode == 0, done.stderr
    yield made
