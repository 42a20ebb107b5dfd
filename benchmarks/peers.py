"""The peers' own quantizers on ready frames, with the settings their documentation recommends for this engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def reader(stack: np.ndarray, name: str = "images") -> Any:
    """onnxruntime's calibration reader over float32 [count, …], one frame at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._rows = iter(range(len(stack)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {name: stack[row : row + 1]}

        def get_first(self) -> dict[str, np.ndarray]:
            return {name: stack[:1]}

    return Reader()


def quantize(peer: str, model: Path, stack: np.ndarray, out: Path) -> None:
    """Calibrate and quantize ``model`` as ``peer`` (``onnxruntime Entropy``, ``ModelOpt max``, …) does it."""
    library, method = peer.split()
    made = {"onnxruntime": _onnxruntime, "ModelOpt": _modelopt, "NNCF": _nncf}[library]
    made(method, model, stack, out)


def _input(model: Path) -> str:
    """The name of a model's one input."""
    import onnx

    return str(onnx.load(str(model)).graph.input[0].name)


def _onnxruntime(method: str, model: Path, stack: np.ndarray, out: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    quantize_static(
        str(model),
        str(out),
        reader(stack, _input(model)),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
    )


def _modelopt(method: str, model: Path, stack: np.ndarray, out: Path) -> None:
    from modelopt.onnx.quantization import quantize as modelopt

    modelopt(
        str(model),
        calibration_data={_input(model): stack},
        calibration_method=method,
        calibration_eps=["cpu"],
        output_path=str(out),
        high_precision_dtype="fp32",
        log_level="ERROR",
    )


def _nncf(_method: str, model: Path, stack: np.ndarray, out: Path) -> None:
    import nncf  # type: ignore[import-not-found]
    import onnx

    name = _input(model)
    rows = nncf.Dataset(range(len(stack)), lambda row: {name: stack[row : row + 1]})
    onnx.save(nncf.quantize(onnx.load(str(model)), rows, subset_size=len(stack)), str(out))
