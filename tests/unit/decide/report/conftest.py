"""A finished run that several pages show; test_page.py has one of its own."""

from __future__ import annotations

import pytest

import report_samples as samples
from edgeship.decide.finished_run import FinishedRun


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run with four candidates. Tests must not change it."""
    return samples.rich(tmp_path_factory.mktemp("rich"), candidates=4)
