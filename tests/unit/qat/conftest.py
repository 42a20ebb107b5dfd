"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest
from small_network import Case, make_case


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A small network, exported and calibrated once."""
    return make_case(tmp_path_factory.mktemp("small"))
