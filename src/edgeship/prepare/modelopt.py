"""The one place that calls ModelOpt. Its quantizer rewrites onnxruntime's in place: what it changed is restored."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeship.engines import processor
from edgeship.errors import MissingExtra, QuantizeError
from edgeship.prepare import graph, large

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

DOUBLE = 11
"""TensorProto.DataType of float64."""
COPIES = 8
"""Times that ModelOpt's quantizer holds the weights of a graph, at least: of 2.0 GiB it held 15.8 and was not done."""
_MANY = 32
"""A graph whose weights are more than this part of what one protobuf message holds has many."""
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

    with _ONE_AT_A_TIME, quiet(), _weights_left_alone():
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


@contextmanager
def _weights_left_alone() -> Iterator[None]:
    """Let ModelOpt infer the shapes of a graph and check it without its weights, where they are many.

    It does so again and again, and each time all weights are written and read: half of the time of 2 GiB.
    """
    import onnx
    from modelopt.onnx import utils

    usual = {name: getattr(utils, name) for name in ("infer_shapes", "check_model", "is_model_too_large_for_protobuf")}

    def heavy(model: onnx.ModelProto) -> bool:
        return large.weight_bytes(model) > large.PROTOBUF_LIMIT // _MANY

    def infer_shapes(model: onnx.ModelProto, **settings: Any) -> onnx.ModelProto:
        if not heavy(model):
            inferred: onnx.ModelProto = usual["infer_shapes"](model, **settings)
            return inferred
        found = onnx.shape_inference.infer_shapes(large.without_values(model), **settings).graph
        for field in ("node", "value_info", "output"):
            model.graph.ClearField(field)
            getattr(model.graph, field).extend(getattr(found, field))
        return model

    def check_model(model: onnx.ModelProto) -> None:
        if heavy(model):
            onnx.checker.check_model(large.without_weights(model))
        else:
            usual["check_model"](model)

    ours: dict[str, Any] = {
        "infer_shapes": infer_shapes,
        "check_model": check_model,
        "is_model_too_large_for_protobuf": large.too_large,
    }
    try:
        for name, function in ours.items():
            setattr(utils, name, function)
        yield
    finally:
        for name, function in usual.items():
            setattr(utils, name, function)


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
    """Hold back what ModelOpt and Polygraphy below it say, then give their loggers their levels again.

    Polygraphy prints to standard output, where ``--json`` stands, with the names of tensors as they are.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("modelopt")]
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in names)]
    levels = [logger.level for logger in loggers]
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with _quiet_polygraphy():
            yield
    finally:
        logging.disable(disabled)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _quiet_polygraphy() -> AbstractContextManager[object]:
    try:
        from polygraphy.logger import G_LOGGER
    except ImportError:
        return nullcontext()
    silent: AbstractContextManager[object] = G_LOGGER.verbosity()
    return silent


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
    frame: FrameBatch,
    left: Iterable[str],
    mode: Literal["int8", "fp8"],
    high: Literal["fp16", "fp32"],
) -> onnx.ModelProto:
    """Q/DQ nodes where TensorRT wants them.

    Args:
        frame: A real batch; the scales it leads to must be replaced. With one row ModelOpt leaves products in float
            that run in INT8 on larger batches.
        left: Names of nodes to leave in float.

    Raises:
        QuantizeError: ModelOpt failed, or the memory does not suffice for a graph beyond protobuf's limit.
    """
    try:
        from modelopt.onnx.quantization import quantize as run
    except ImportError as error:
        raise MissingExtra("quantizing for TensorRT", error.name or "nvidia-modelopt", "host") from error
    import onnx

    _refuse_double(reference)
    _require_memory(reference)
    with tempfile.TemporaryDirectory(prefix="edgeship-quantize-") as scratch, contained():
        source, target = Path(scratch) / "model.onnx", Path(scratch) / "quantized.onnx"
        outputs = SpecialOutputs(reference)
        outputs.write(source)
        if high == "fp16":
            _refuse_bodies(reference, "take int8-fp32, or export the model without data-dependent control flow")
        wanted = {value.name for value in outputs.core.graph.input}
        reader: Any = OneFrame({name: array for name, array in frame[1].items() if name in wanted})
        with _translated("ModelOpt could not quantize the graph", "for onnxruntime: --for onnxruntime"):
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
        return outputs.restore(onnx.load(str(target)))


def autocast(reference: onnx.ModelProto, data: Path, kept: Iterable[str]) -> onnx.ModelProto:
    """AutoCast to FP16 on the ``.npz`` frames in the folder ``data``.

    Raises:
        QuantizeError: AutoCast failed.
    """
    try:
        from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise MissingExtra("converting to FP16", error.name or "nvidia-modelopt", "host") from error
    _refuse_double(reference)
    with tempfile.TemporaryDirectory(prefix="edgeship-half-") as scratch, contained():
        source = Path(scratch) / "model.onnx"
        outputs = SpecialOutputs(reference)
        outputs.write(source)
        _refuse_bodies(reference, "export the model without data-dependent control flow, or ship fp32")
        with _translated("AutoCast could not convert the graph to FP16", "ship fp32, or int8-fp32"):
            converted: onnx.ModelProto = convert_to_mixed_precision(
                str(source),
                low_precision_type="fp16",
                keep_io_types=True,
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in kept],
                calibration_data=str(data),
                providers=["cpu"],
            )
        return outputs.restore(converted)


@contextmanager
def _translated(what: str, instead: str) -> Iterator[None]:
    """Turn the exceptions that ModelOpt, graphsurgeon, onnx and onnxruntime raise on a graph into QuantizeError."""
    import onnx
    from google.protobuf.message import DecodeError, EncodeError
    from polygraphy.exception import PolygraphyException

    from edgeship.engines.ort import session as sessions

    kinds: tuple[type[Exception], ...] = (
        LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError, StopIteration, NameError,
        ArithmeticError, ImportError, DecodeError, EncodeError, PolygraphyException,
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError, *sessions.failures(),
    )  # fmt: skip
    try:
        yield
    except kinds as error:
        words = " ".join(str(error).split())[:300] or "without a word"
        raise QuantizeError(
            f"{what}: {type(error).__name__}: {words}", do=f"another precision or engine: {instead}"
        ) from error


def _refuse_double(model: onnx.ModelProto) -> None:
    """Refuse inputs in float64, which TensorRT does not take and ModelOpt turns into float32."""
    found = [value.name for value in model.graph.input if value.type.tensor_type.elem_type == DOUBLE]
    if found:
        raise QuantizeError(
            f"the input {found[0]!r} is float64, which TensorRT does not take",
            expected="float32",
            do="export the model in float32: model.float(), with a float32 example",
        )


def _require_memory(model: onnx.ModelProto) -> None:
    """Refuse a graph beyond protobuf's limit of which ModelOpt holds more copies than there is memory for: the system
    would end the process after minutes."""
    free = processor.free_memory_mib()
    if free is None or not large.too_large(model):
        return
    wanted = COPIES * large.weight_bytes(model) / 2**20
    if wanted > free:
        raise QuantizeError(
            f"{large.weight_bytes(model) / 2**30:.1f} GiB of weights are more than ModelOpt can quantize here: it "
            f"holds them {COPIES} times at least",
            expected=f"{wanted / 1024:.0f} GiB of free memory; {free / 1024:.0f} GiB are free",
            do="free memory or take a machine with more; or ship fp16, or quantize for onnxruntime: --for onnxruntime",
        )


def _refuse_bodies(model: onnx.ModelProto, do: str) -> None:
    """Refuse graphs with loops and conditions: AutoCast knows no tensor of theirs."""
    found = [node for node in model.graph.node if any(item.HasField("g") for item in node.attribute)]
    if found:
        raise QuantizeError(
            f"ModelOpt does not convert graphs with subgraphs to FP16: {found[0].op_type} {found[0].name!r}",
            expected="a graph without Loop, If and Scan",
            do=do,
        )


class SpecialOutputs:
    """A graph without the outputs that ModelOpt stumbles on: constants, passed-through inputs, and what is computed in
    float64. The first two are put back as they were; behind a converted graph the last are computed as before."""

    def __init__(self, reference: onnx.ModelProto) -> None:
        import onnx

        self._reference = reference
        made = {name for node in reference.graph.node for name in node.output}
        self._behind = _double_nodes(reference)
        behind = {name for node in self._behind for name in node.output}
        self.core = onnx.ModelProto()
        self.core.CopyFrom(reference)
        kept = [value for value in reference.graph.output if value.name in made - behind]
        known = {value.name: value for value in reference.graph.value_info}
        present = {value.name for value in kept}
        self._crossing = [
            name for node in self._behind for name in node.input if name in made - behind and name not in present
        ]
        kept += [known[name] for name in dict.fromkeys(self._crossing)]
        self.core.graph.ClearField("output")
        self.core.graph.output.extend(kept)
        nodes = [node for node in reference.graph.node if not behind.intersection(node.output)]
        self.core.graph.ClearField("node")
        self.core.graph.node.extend(nodes)
        if not kept:
            raise QuantizeError(
                "the graph computes in float64 only", expected="float32", do="export the model in float32"
            )
        infos = [value for value in reference.graph.value_info if value.name not in behind]
        self.core.graph.ClearField("value_info")
        self.core.graph.value_info.extend(infos)

    def write(self, path: Path) -> None:
        """Write the graph without them, whose weights are not kept here afterwards."""
        graph.save_onnx(self.core, path)
        self.core = large.without_initializers(self.core)

    def restore(self, converted: onnx.ModelProto) -> onnx.ModelProto:
        """The converted graph with all outputs, in their order."""
        converted.graph.node.extend(self._behind)
        self._free_constants(converted)
        there = {tensor.name for tensor in converted.graph.initializer}
        wanted = {name for node in self._behind for name in node.input}
        wanted |= {value.name for value in self._reference.graph.output}
        converted.graph.initializer.extend(
            tensor for tensor in self._reference.graph.initializer if tensor.name in wanted and tensor.name not in there
        )
        own = {value.name: value for value in converted.graph.output}
        outputs = [own.get(value.name, value) for value in self._reference.graph.output]
        converted.graph.ClearField("output")
        converted.graph.output.extend(outputs)
        return converted

    def _free_constants(self, converted: onnx.ModelProto) -> None:
        """Rename converted weights whose original is an output of the graph, so that both have a place."""
        outputs = {value.name for value in self._reference.graph.output}
        types = {tensor.name: tensor.data_type for tensor in self._reference.graph.initializer}
        new = {
            tensor.name: f"{tensor.name}_converted"
            for tensor in converted.graph.initializer
            if tensor.name in outputs and types.get(tensor.name, tensor.data_type) != tensor.data_type
        }
        for tensor in converted.graph.initializer:
            tensor.name = new.get(tensor.name, tensor.name)
        for node in converted.graph.node if new else ():
            for slot, name in enumerate(node.input):
                node.input[slot] = new.get(name, name)


def _double_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes at the end of a graph that compute in float64, in order; none where a float32 layer reads a result."""
    values = [*model.graph.value_info, *model.graph.output]
    doubles = {value.name for value in values if value.type.tensor_type.elem_type == DOUBLE}
    behind: list[onnx.NodeProto] = []
    read: set[str] = set()
    for node in reversed(model.graph.node):
        if doubles.intersection(node.output) and not read.intersection(node.output):
            behind.insert(0, node)
        else:
            read.update(node.input)
    return behind
