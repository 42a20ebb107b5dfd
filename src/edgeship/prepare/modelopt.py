"""The one place that calls ModelOpt. Its quantizer rewrites onnxruntime's in place: what it changed is restored."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeship.errors import DataError, MissingExtra, StageError
from edgeship.prepare import graph
from edgeship.prepare.quantized_tensors import RANKING

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

_ONE_AT_A_TIME = threading.RLock()
_PATCHED = ("calibrate", "base_quantizer", "qdq_quantizer", "onnx_quantizer", "registry", "quant_utils")
"""Modules of onnxruntime.quantization whose functions, classes and tables ModelOpt rewrites."""


@contextmanager
def contained() -> Iterator[None]:
    """Let ModelOpt rewrite onnxruntime's quantizer inside the block only, and hold its log lines back.

    ModelOpt replaces methods of the calibrators and quantizers and deletes operators from the registries; without
    this, a later quantization for onnxruntime in the same process would leave Relu, Concat and others out.
    """
    import importlib

    with _ONE_AT_A_TIME, quiet():
        modules = [importlib.import_module(f"onnxruntime.quantization.{name}") for name in _PATCHED]
        classes = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
        owners: list[Any] = [*modules, *(kind for kind in classes if kind.__module__.startswith("onnxruntime."))]
        before = [(owner, dict(vars(owner))) for owner in owners]
        tables = [value for module in modules for value in vars(module).values() if isinstance(value, dict)]
        contents = [(table, dict(table)) for table in tables]
        try:
            yield
        finally:
            for table, content in contents:
                table.clear()
                table.update(content)
            for owner, attributes in before:
                _restore(owner, attributes)


def _restore(owner: Any, attributes: dict[str, Any]) -> None:
    now = dict(vars(owner))
    for name, value in attributes.items():
        if now.get(name) is not value:
            setattr(owner, name, value)
    for name in now.keys() - attributes.keys():
        if not name.startswith("__"):
            delattr(owner, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold ModelOpt's log lines back, then give the loggers their levels again."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("modelopt")]
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in names)]
    levels = [logger.level for logger in loggers]
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class OneFrame:
    """A calibration reader of a single real batch: ModelOpt insists on a pass, whose ranges are then replaced."""

    def __init__(self, feeds: dict[str, Any]) -> None:
        self._feeds = feeds
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        self._left = [self._feeds]

    def get_next(self) -> dict[str, Any] | None:
        """The batch, once."""
        return self._left.pop() if self._left else None

    def get_first(self) -> dict[str, Any]:
        """The batch."""
        return self._feeds


def quantize(
    reference: onnx.ModelProto,
    frame: FrameBatch | None,
    kept: Sequence[str],
    mode: Literal["int8", "fp8"],
    high: Literal["fp16", "fp32"],
) -> onnx.ModelProto:
    """Q/DQ nodes where TensorRT wants them. ``frame`` is a real one; the scales it leads to must be replaced.

    Raises:
        DataError: No frame: ModelOpt would take random data.
        StageError: ModelOpt failed.
    """
    if frame is None:
        raise DataError(
            "no frames to quantize for TensorRT with",
            expected="at least one real frame (random data is never used)",
            do="give the calibration frames with --images or --npz",
        )
    try:
        from modelopt.onnx.quantization import quantize as run
    except ImportError as error:
        raise MissingExtra("quantizing for TensorRT", error.name or "nvidia-modelopt", "host") from error
    import onnx

    left = [*kept, *(node.name for node in reference.graph.node if node.op_type in RANKING)]
    with tempfile.TemporaryDirectory(prefix="edgeship-quantize-") as scratch, contained():
        source, target = Path(scratch) / "model.onnx", Path(scratch) / "quantized.onnx"
        graph.save_onnx(reference, source)
        reader: Any = OneFrame(dict(frame[1]))
        try:
            run(
                str(source),
                quantize_mode=mode,
                calibration_data_reader=reader,
                calibration_method="max",
                calibration_eps=["cpu"],
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in left],
                output_path=str(target),
                log_level="ERROR",
                high_precision_dtype=high,
            )
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            words = " ".join(str(error).split())[:300]
            raise StageError(f"ModelOpt could not quantize the graph: {words}") from error
        return onnx.load(str(target))


def autocast(reference: onnx.ModelProto, data: Path, kept: Sequence[str]) -> onnx.ModelProto:
    """AutoCast to FP16 on the ``.npz`` frames in the folder ``data``.

    Raises:
        StageError: AutoCast failed.
    """
    try:
        from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise MissingExtra("converting to FP16", error.name or "nvidia-modelopt", "host") from error
    with tempfile.TemporaryDirectory(prefix="edgeship-half-") as scratch, contained():
        source = Path(scratch) / "model.onnx"
        graph.save_onnx(reference, source)
        try:
            converted: onnx.ModelProto = convert_to_mixed_precision(
                str(source),
                low_precision_type="fp16",
                keep_io_types=True,
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in kept],
                calibration_data=str(data),
                providers=["cpu"],
            )
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            words = " ".join(str(error).split())[:300]
            raise StageError(f"AutoCast could not convert the graph to FP16: {words}") from error
    return converted
