"""This machine: its versions and hardware, read without importing heavy packages."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from edgeship.pipeline.stages import source_digest, versions

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxslim", "nvidia-modelopt", "tensorrt",
            "tensorrt-rtx", "numpy", "pillow")  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions and hardware of this machine, read without importing heavy packages."""
    return {
        "edgeship": source_digest(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "packages": versions(*PACKAGES),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
