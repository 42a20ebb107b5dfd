"""The engine onnxruntime-rtx with NVIDIA's real provider package, its library registered in onnxruntime, and no GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bindings import CACHE, ROOT

from edgeship.engines.ort.rtx import provider_options
from vehicle_support import network

pytestmark = pytest.mark.slow

VERSION = "0.5.0"
DRIVER = {"libcuda.so.1": 100, "libnvidia-ml.so.1": 9}
"""The driver's libraries → what every function of the stand-ins returns: no device, no driver."""
TEXTS = 'char *nvmlErrorString(int e) { return "no driver"; }\n'


@pytest.fixture(scope="module")
def package() -> Path:
    """A folder with the provider, filled once from the package registry, and stand-ins for a driver without a GPU."""
    place = CACHE / f"rtx-provider-{VERSION}"
    ready = place / "ready"
    if not ready.is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        requirement = f"onnxruntime-ep-nv-tensorrt-rtx-cu13=={VERSION}"
        subprocess.run([*pip, "--upgrade", "--target", str(place), requirement], check=True, capture_output=True)
        stand_ins(place)
        ready.write_text(VERSION, encoding="utf-8")
    return place


def stand_ins(place: Path) -> None:
    """Libraries that export what the package's own ones take from the driver."""
    wanted: set[str] = set()
    for library in (place / "onnxruntime_ep_nv_tensorrt_rtx").glob("*.so*"):
        listed = subprocess.run(["nm", "-D", "--undefined-only", str(library)], check=True, capture_output=True)
        wanted |= set(re.findall(r" U ((?:cu[A-Z]|nvml)\w+)\n", listed.stdout.decode()))
    (place / "driver").mkdir(exist_ok=True)
    for name, answer in DRIVER.items():
        own = sorted(item for item in wanted if item.startswith("nvml") == ("nvidia-ml" in name))
        source = place / "driver" / f"{name}.c"
        functions = "".join(f"int {item}(void) {{ return {answer}; }}\n" for item in own if item != "nvmlErrorString")
        source.write_text(functions + (TEXTS if "nvmlErrorString" in own else ""), encoding="utf-8")
        output = place / "driver" / name
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(output), str(source)]
        subprocess.run(command, check=True, capture_output=True)


def asked(package: Path, model: Path, *, driver: bool) -> Any:
    """What the engine says, with or without the libraries of a driver."""
    path = os.pathsep.join((str(ROOT / "src"), str(package)))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    environment["LD_LIBRARY_PATH"] = str(package / "driver") if driver else ""
    command = [sys.executable, str(Path(__file__).with_name("rtx_provider.py")), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_provider_registers_and_a_machine_without_a_supported_gpu_is_refused(package: Path, tmp_path: Path) -> None:
    found = asked(package, network(tmp_path / "model.onnx"), driver=True)
    assert found["takes"] == [True, True, True]
    assert (found["available"], found["version"], found["reason"]) == (True, VERSION, "")
    assert found["name"] == "NvTensorRTRTXExecutionProvider"
    assert found["refused"]["kind"] == "DeviceError"
    assert f"{found['name']} {VERSION} finds no GPU here that it supports" in found["refused"]["found"]
    assert "compute capability 8.6, 8.9, or 12.0 and later" in found["refused"]["expected"]


def test_a_machine_without_a_driver_is_told_so(package: Path, tmp_path: Path) -> None:
    found = asked(package, network(tmp_path / "model.onnx"), driver=False)
    assert not found["available"]
    assert "libcuda.so.1" in found["reason"]
    assert found["refused"]["do"] == "install NVIDIA's driver for CUDA 13, and check nvidia-smi"


def test_every_option_that_is_set_is_one_of_the_providers(package: Path) -> None:
    header = (package / "onnxruntime_ep_nv_tensorrt_rtx" / "tensorrt_rtx_provider_options.h").read_text()
    known = set(re.findall(r'constexpr const char\* k\w+ = "(\w+)";', header))
    shapes = ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    asked_for = provider_options({"images": shapes})
    assert len(asked_for) == 4
    assert set(asked_for) - known == set()
    assert "input:dim0xdim1,...;input2:dim0xdim1,..." in header, "the words by which shapes are written have changed"
