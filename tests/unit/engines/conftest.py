"""Small networks that the engines' tests build. Tests must not change them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_onnx import convolutions, quantized


@pytest.fixture(scope="module")
def fp32(tmp_path_factory) -> Path:
    return convolutions(tmp_path_factory.mktemp("fp32") / "net.onnx")


@pytest.fixture(scope="module")
def int8(tmp_path_factory, fp32) -> Path:
    return quantized(fp32, tmp_path_factory.mktemp("int8") / "net.onnx")
