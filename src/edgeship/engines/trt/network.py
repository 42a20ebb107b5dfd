"""An ONNX file parsed into a network, and what the parser objects to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.engines.onnx_file import read_inputs
from edgeship.engines.trt.flavour import ERROR, Flavour, Log, logger, remedy, said, tensor_info
from edgeship.errors import BuildError, ModelError, UserInputError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class Parsed:
    """A parsed network with everything that must outlive it."""

    builder: Any
    network: Any
    parser: Any
    logger: Any
    log: Log
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    shape_inputs: frozenset[str]


@dataclass(frozen=True)
class Objection:
    """One node that the parser rejects, in its own words."""

    node: str
    operator: str
    reason: str
    index: int


def create(flavour: Flavour, log: Log, *, strongly_typed: bool = True) -> tuple[Any, Any, Any, Any]:
    """A builder, an empty network, its parser and the logger that all of them need alive.

    Raises:
        BuildError: The vendor library gives no builder here.
    """
    trt = flavour.trt
    keep = logger(trt, log)
    try:
        builder = trt.Builder(keep)
    except (TypeError, RuntimeError) as error:
        raise BuildError(
            f"{flavour.title} gives no builder: {said(log) or error}",
            do="a runtime-only install cannot build; install the full TensorRT, or build where it is",
        ) from error
    own_plugins(flavour, keep)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strongly_typed else 0
    network = builder.create_network(flags)
    return builder, network, trt.OnnxParser(network, keep), keep


def own_plugins(flavour: Flavour, keep: Any) -> None:
    """Register TensorRT's own plugins, such as EfficientNMS_TRT, with parsers and runtimes; TensorRT-RTX has none."""
    if not flavour.rtx:
        flavour.trt.init_libnvinfer_plugins(keep, "")


def load_plugins(builder: trt.Builder, plugins: tuple[Path, ...], log: Log) -> None:
    """Load plugin libraries into the builder's registry.

    Raises:
        UserInputError: A library is absent or does not load; the loader's reason is in the message.
    """
    load_libraries(builder.get_plugin_registry(), plugins, log)


def load_libraries(registry: trt.IPluginRegistry, plugins: tuple[Path, ...], log: Log) -> None:
    """Load plugin libraries. Raises UserInputError as :func:`load_plugins` does."""
    for path in plugins:
        if not path.is_file():
            raise UserInputError(
                f"the plugin library {path} does not exist",
                expected="a shared library of plugins",
                do="fix target.plugins or --plugin",
            )
        before = len(log.lines)
        if registry.load_library(str(path)) is None:
            reasons = [text for severity, text in log.lines[before:] if severity <= ERROR]
            raise UserInputError(
                f"the plugin library {path} does not load: {next(iter(reasons), 'TensorRT gave no reason')}",
                expected="a library built for this machine, against this version of TensorRT",
                do=f"ldd {path} names what is missing",
            )


def read_model(onnx: Path) -> bytes:
    """The bytes of an ONNX file. Raises ModelError when there is none."""
    try:
        data = onnx.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{onnx} does not exist", expected="an .onnx file", do="edgeship export") from None
    except IsADirectoryError:
        raise ModelError(f"{onnx} is a folder", expected="an .onnx file") from None
    if not data:
        raise ModelError(f"{onnx} is empty", expected="an .onnx file")
    return data


def parse(
    flavour: Flavour, onnx: Path, log: Log, *, plugins: tuple[Path, ...] = (), strongly_typed: bool = True
) -> Parsed:
    """Parse an ONNX file.

    Raises:
        ModelError: The file is absent or empty.
        BuildError: The parser rejects it; the first nodes are named and preflight names them all.
    """
    data = read_model(onnx)
    builder, network, parser, keep = create(flavour, log, strongly_typed=strongly_typed)
    load_plugins(builder, plugins, log)
    if not parser.parse(data, str(onnx)):
        raise _rejected(flavour, onnx, objections(parser), log)
    if not network.num_outputs:
        raise ModelError(f"{onnx} holds no graph that {flavour.title} can read", expected="an .onnx file with outputs")
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return Parsed(
        builder,
        network,
        parser,
        keep,
        log,
        tuple(tensor_info(tensor) for tensor in tensors),
        named_axes(tuple(tensor_info(tensor) for tensor in outputs), read_inputs(onnx)[1]),
        frozenset(tensor.name for tensor in tensors if tensor.is_shape_tensor),
    )


def named_axes(found: tuple[TensorInfo, ...], declared: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """Tensors with their dynamic axes called as the ONNX file calls them."""
    known = {tensor.name: tensor.shape for tensor in declared}
    named = []
    for tensor in found:
        ours = known.get(tensor.name, ())
        if len(ours) == len(tensor.shape):
            pairs = zip(tensor.shape, ours, strict=True)
            shape = tuple(word if isinstance(size, str) and isinstance(word, str) else size for size, word in pairs)
            tensor = tensor.model_copy(update={"shape": shape})  # noqa: PLW2901
        named.append(tensor)
    return tuple(named)


def supported(flavour: Flavour, onnx: Path, log: Log, plugins: tuple[Path, ...] = ()) -> list[Objection]:
    """Every node that the parser rejects, in one pass, without building a network.

    Raises:
        ModelError: The file is absent or empty.
    """
    data = read_model(onnx)
    builder, _network, parser, _keep = create(flavour, log)
    load_plugins(builder, plugins, log)
    if parser.supports_model_v2(data, str(onnx)):
        return []
    found = objections(parser)
    return found or [Objection("", "", said(log) or "the parser rejects the model and names no node", -1)]


def objections(parser: trt.OnnxParser) -> list[Objection]:
    """The parser's errors, each node once."""
    found: dict[tuple[str, str, int], Objection] = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        key = (error.node_name(), error.node_operator(), error.node())
        words = error.desc()
        reason = f"TensorRT has no implementation of {key[1]}" if words in ("", "false") else words
        found.setdefault(key, Objection(key[0], key[1], reason, key[2]))
    return list(found.values())


def _rejected(flavour: Flavour, onnx: Path, found: list[Objection], log: Log) -> BuildError:
    named = [f"{item.operator or 'node'} {item.node!r}: {item.reason}" for item in found[:3]]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    reason = "; ".join(named) + more if named else said(log)
    fallback = f"edgeship preflight {onnx} names every such node and its remedies"
    advice = None if any(item.operator for item in found) else remedy(reason)
    return BuildError(f"{flavour.title} cannot parse {onnx}: {reason}", do=advice or fallback)
