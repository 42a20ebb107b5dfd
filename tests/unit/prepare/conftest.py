"""The network that several tests calibrate and quantize."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration_support import export_fashion


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fashion example's network as ONNX. Tests must not change it."""
    return export_fashion(tmp_path_factory.mktemp("fashion"))
