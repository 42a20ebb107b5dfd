"""This machine: its versions and hardware, read without importing heavy packages."""

from __future__ import annotations

import platform
from typing import Any

from edgeship.engines import processor
from edgeship.pipeline.stages import source_digest, versions

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "onnxslim", "nvidia-modelopt",
            "tensorrt", "tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx", "numpy", "pillow")  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions and hardware of this machine, read without importing heavy packages."""
    return {
        "edgeship": source_digest(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor.name(),
        "packages": versions(*PACKAGES),
    }
