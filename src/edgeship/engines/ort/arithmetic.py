"""How INT8 products of a file are computed on a CPU: exactly, or with weights of 7 bits that cannot saturate.

The file says it itself, in a metadata entry that onnxruntime keeps where it writes an optimized graph.
"""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Arithmetic
from edgeship.engines.onnx_file import opened, opened_bytes, read_metadata

KEY = "edgeship.arithmetic"
REDUCED: Arithmetic = "reduced-range"


def arithmetic_of(source: str | bytes) -> Arithmetic:
    """What an ONNX file (its path, or its bytes) is marked with; ``exact`` without a mark. Raises ModelError."""
    with opened(Path(source)) if isinstance(source, str) else opened_bytes(source, "the model") as model:
        return REDUCED if read_metadata(model).get(KEY) == REDUCED else "exact"
