"""What the engine onnxruntime-rtx says with the real provider package: run in a process of its own.

Reads the folder of an ONNX file; prints JSON. ``LD_LIBRARY_PATH`` decides whether a driver's libraries are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgeship import engines
from edgeship.engines import OpenOptions
from edgeship.errors import EdgeshipError


def main() -> None:
    """Ask."""
    engine = engines.get("onnxruntime-rtx")
    probe = engine.probe()
    refused: dict[str, Any] = {}
    try:
        engine.open(Path(sys.argv[1]), OpenOptions(device="cuda:0"))
    except EdgeshipError as error:
        refused = {"kind": type(error).__name__, "found": error.found, "expected": error.expected, "do": error.do}
    import onnxruntime
    import onnxruntime_ep_nv_tensorrt_rtx as provider

    answer = {
        "available": probe.available,
        "version": probe.version,
        "reason": probe.reason,
        "refused": refused,
        "name": provider.get_ep_name(),
        "folder": str(Path(provider.get_library_path()).parent),
        "takes": [
            hasattr(onnxruntime, "register_execution_provider_library"),
            hasattr(onnxruntime, "get_ep_devices"),
            hasattr(onnxruntime.SessionOptions(), "add_provider_for_devices"),
        ],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
